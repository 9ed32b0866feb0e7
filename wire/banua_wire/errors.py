"""The one exception that anything malformed on the wire ends in."""


class WireError(ValueError):
    """A row, batch, receipt or topic that breaks the contract; the message names the field and the limit in one line."""
