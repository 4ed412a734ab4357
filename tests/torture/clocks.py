"""The time of day of a daemon's process, which jumps: clock.c, compiled when it is first needed, and its file."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("clock.c")
FILE: Final = "TORTURE_CLOCK"


class JumpingClock:
    """A clock for one process, in files of this folder; right until it is told to jump."""

    def __init__(self, folder: Path, name: str) -> None:
        compiler = shutil.which("cc")
        assert compiler, "A C compiler is missing: run tests/setup_system.sh as root, or install `gcc`."
        library = folder / "clock.so"
        if not library.exists():
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self._file = folder / f"{name}.clock"
        self._file.write_bytes(struct.pack("@q", 0))
        #: What the process has to find in its environment.
        self.variables = {"LD_PRELOAD": str(library), FILE: str(self._file)}

    def jump(self, seconds: int) -> None:
        """Put the clock off by so much from the right time, at once: the process has the file mapped."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("@q", seconds))
