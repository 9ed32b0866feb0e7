"""Break the code on purpose, one patch of tests/sabotage at a time: the test that the patch names must fail.

A test that stays green on broken code proves nothing. A patch begins with `# test: <node id>`
and `# why: <what is broken>`.

usage: python tools/sabotage.py [name…]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "tests/sabotage"
PYTHON = ROOT / ".venv/bin/python"
AT_ONCE = 2
PASSED, FAILED = 0, 1  # of pytest; 2 to 5 say that it did not judge


@dataclass(frozen=True)
class Patch:
    """A patch file and what its header says."""

    path: Path
    test: str
    why: str

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Read the header; a patch without one is refused."""
        header = dict(re.findall(r"^# (test|why): (.+)$", path.read_text(), re.MULTILINE))
        if set(header) != {"test", "why"}:
            raise SystemExit(f"{path.name}: needs a `# test:` and a `# why:` line")
        return cls(path, header["test"].strip(), header["why"].strip())


class Copy:
    """The tree, tracked and new files, in a folder of its own whose packages win over the installed ones."""

    def __enter__(self) -> Self:
        """Copy the tree."""
        self.folder = Path(tempfile.mkdtemp(prefix="sabotage-"))
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listing, cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        packages = [str(self.folder / part) for part in ("wire", "probe", "collector", "lab")]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(packages),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_CEILING_DIRECTORIES": str(self.folder.parent),
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def test(self, *nodeids: str) -> subprocess.CompletedProcess[str]:
        """Run these tests in it; of those that run on both databases, on SQLite, which is enough to turn red."""
        once = ("-m", "not (both and real)")
        return self.run(PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *once, *nodeids)


def judge(patch: Patch) -> tuple[bool, str]:
    """Return whether the named test noticed the patch, and the line that says so."""
    with Copy() as copy:
        applied = copy.run("git", "apply", patch.path)
        if applied.returncode:
            return False, f"DOES NOT APPLY {patch.path.stem}\n{applied.stdout}"
        tested = copy.test(patch.test)
    match tested.returncode:
        case code if code == FAILED:
            return True, f"red  {patch.path.stem}: {patch.why}"
        case code if code == PASSED:
            return False, f"STILL GREEN {patch.path.stem}: {patch.test}"
        case code:
            return False, f"DID NOT RUN (pytest exit {code}) {patch.path.stem}\n{tested.stdout}"


def main(names: list[str]) -> int:
    """Judge the patches, all or those named."""
    patches = [Patch.read(path) for path in sorted(PATCHES.glob("*.patch")) if not names or path.stem in names]
    if not patches:
        print(f"no sabotage patch{' of that name' if names else ' yet'}")
        return 1 if names else 0
    with Copy() as copy:
        sound = copy.test(*dict.fromkeys(patch.test for patch in patches))
    if sound.returncode:
        print(sound.stdout, "sabotage: the named tests do not pass on the sound code", sep="\n")
        return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = []
        for noticed, line in pool.map(judge, patches):
            print(line, flush=True)
            verdicts.append(noticed)
    print(f"sabotage: {sum(verdicts)} of {len(verdicts)} noticed")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
