"""MessagePack from a stranger: the one place where a small message is read or refused."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from banua_wire.errors import WireError

_T = TypeVar("_T")


def decoded(decode: Callable[[bytes], _T], payload: bytes, what: str, limit: int) -> _T:
    """Return what `decode` makes of `payload`; WireError names `what` it is not, or the limit in bytes it is over."""
    if len(payload) > limit:
        raise WireError(f"{what} of {len(payload)} bytes is over {limit}")
    try:
        return decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"not a {what}: {error!s:.120}") from None
