"""The one exception that anything malformed on the wire ends in."""


class WireError(ValueError):
    """A row, batch, receipt or topic that breaks the contract; the message names field and limit in one line."""
