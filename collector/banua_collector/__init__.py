"""The collector: verifies what probes send, keeps it as evidence, and projects it to where people look.

Reads in flow order: ``ingest`` → ``verify`` → ``journal`` → ``dating`` → ``project`` → ``status``; ``registry`` says
who may speak and where they stand; ``app`` composes.
"""
