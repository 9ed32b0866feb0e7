"""A disk of two megabytes that nobody else sees: a tmpfs in a mount namespace of this thread and its children."""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

CLONE_NEWNS: Final = 0x20000


@cache
def leave_the_others() -> None:
    """Take a mount namespace of our own (unshare(2)): what is mounted in it goes with the last process that sees it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class TinyDisk:
    """Mounted at `folder`; `fill` leaves no room on it, `make_room` takes that back."""

    def __init__(self, folder: Path, size: str = "2m") -> None:
        leave_the_others()
        folder.mkdir(parents=True)
        self.folder = folder
        self._ballast = folder / "ballast"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)

    @property
    def free_bytes(self) -> int:
        told = os.statvfs(self.folder)
        return told.f_bavail * told.f_bsize

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            while self.free_bytes:
                ballast.write(bytes(min(self.free_bytes, 4096)))

    def make_room(self, size: str) -> None:
        """Delete what filled it, and grow it: SQLite's own files may have grown meanwhile."""
        self._ballast.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)
