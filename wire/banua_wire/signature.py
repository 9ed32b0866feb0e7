"""Ed25519 keys of a probe: nobody writes as someone else."""

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from banua_wire.errors import WireError

KEY_BYTES = 32


def new_secret() -> bytes:
    """Return a fresh secret key (32 bytes)."""
    return bytes(SigningKey.generate())


def public_of(secret: bytes) -> bytes:
    """Return the public key (32 bytes) of `secret`; WireError when that is not 32 bytes."""
    if len(secret) != KEY_BYTES:
        raise WireError(f"secret key of {len(secret)} bytes; it has {KEY_BYTES}")
    return bytes(SigningKey(secret).verify_key)


def sign(secret: bytes, data: bytes) -> bytes:
    """Return the 64-byte signature of `data`."""
    return SigningKey(secret).sign(data).signature


def verifies(public: bytes, data: bytes, signature: bytes) -> bool:
    """Say whether `signature` over `data` was made with the secret of `public`."""
    try:
        VerifyKey(public).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def parse_public(text: str) -> bytes:
    """Return the key in `text`, 64 hexadecimal digits as ``banua-probe init`` prints them; else WireError."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
        raise WireError(f"key {text!r:.80} is not {2 * KEY_BYTES} hexadecimal digits")
    return key
