"""What can go wrong at the collector, each one line that a person can act on."""


class CollectorError(Exception):
    """The root of every error this package raises on purpose; the message is one line for the administrator."""


class ConfigError(CollectorError):
    """The configuration breaks a rule; the message names file, field and limit."""


class BrokerError(CollectorError):
    """There is no connection to the broker, or none any more."""


class BrokerVersionError(BrokerError):
    """The broker is there, and has not accepted the version of MQTT that was spoken to it."""


class RegistryError(CollectorError):
    """A registry command names something unknown, or something that cannot be."""


class DatabaseError(CollectorError):
    """The database cannot be opened, or was made by a version of this package that is newer than this one."""


class ArchiveError(CollectorError):
    """An archive cannot be written, is not what it says, or must not be taken in or out now."""
