"""The village side: measure, keep, deliver."""
