"""The retained state of a probe: its birth on each connection, and the will that says offline.

The birth is also the *ask*: the collector answers it with a receipt that echoes the connection counter.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from banua_wire.packed import decoded
from banua_wire.receipt import Stream

MAX_STATE: Final = 1024
"""Most bytes of a state message."""


class State(msgspec.Struct, array_like=True, frozen=True):
    """Online (birth) or offline (will), with the boot it speaks of, the stream and the connection counter `ask`."""

    online: bool
    boot_id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    stream: Stream
    ask: Annotated[int, Meta(ge=1, le=2**53)]
    next_seq: Annotated[int, Meta(ge=1, le=2**32)]
    waiting: Annotated[int, Meta(ge=0, le=2**32)]
    version: Annotated[str, Meta(max_length=32)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


def encode(state: State) -> bytes:
    """Return the bytes of `state`."""
    return _encode(state)


def decode(payload: bytes) -> State:
    """Return the state in `payload`; WireError when it is none."""
    return decoded(_decode, payload, "state", MAX_STATE)
