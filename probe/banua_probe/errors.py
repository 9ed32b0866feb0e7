"""What can go wrong at the probe, each one line that a technician can act on."""


class ProbeError(Exception):
    """The root of every error this package raises on purpose; the message is one line."""


class ConfigError(ProbeError):
    """The configuration breaks a rule; the message names the file, the field and the limit."""


class OutboxError(ProbeError):
    """The outbox cannot be opened or written; rows stay in memory until it can."""
