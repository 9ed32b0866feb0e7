"""The three ways in which a modem disappoints."""


class ParseError(ValueError):
    """A reply line that cannot be read; the message is one line."""


class ModemUnavailable(Exception):  # noqa: N818 (a condition of the modem, named as one)
    """No answer: the port is gone or busy, the modem silent beyond the timeout, or its reply without an end."""


class ModemRefused(Exception):  # noqa: N818 (as above)
    """An answer that is a refusal: a final result code other than OK; the message is that code, on one line."""
