"""The contract between probe and collector: what a row means, how it travels, what a receipt promises.

Reads in flow order: ``fields`` (the data dictionary) → ``codec`` (rows to bytes) → ``envelope`` (whose bytes, which
batch) → ``signature`` → ``batch`` (the three together) → ``topics`` → ``receipt`` and ``birth`` (the conversation).
No I/O here; ``wire/README.md`` is the prose specification.
"""

__version__ = "0.1.0"
