"""Projections of the journal: whatever is written here can be rebuilt from it."""
