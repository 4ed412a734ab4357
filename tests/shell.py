"""chatd's command line for tests: what a command prints, and the one sentence with which it refuses."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from chatd.__main__ import main
from tests.daemon import environment
from tests.logs import own_logging

CHECKOUT = Path(__file__).parent.parent


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Shell:
    """Runs chatd in an empty folder, with options as in `open_daemon` and its data in `data` below the folder.

    `serve` is a process of its own; what ends by itself runs in this one, which saves the start of Python.
    """

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str, stdin: str | io.StringIO = "", **options: str) -> Done:
        """Run a command; `stdin` is what it reads, or a stream of the test's own."""
        if arguments[:1] == ("serve",):
            assert isinstance(stdin, str)
            return run_process(self.folder, *arguments, stdin=stdin, wrapper=(), **options)
        variables = environment(self.folder / "data", limits=False, **options)
        with own_logging(), pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
            status = 0
            try:
                main(arguments)
            except SystemExit as ended:
                # what the interpreter does with it
                status = ended.code if isinstance(ended.code, int) else 1
                if isinstance(ended.code, str):
                    sys.stderr.write(f"{ended.code}\n")
        return Done(status, *self.capsys.readouterr())

    def told(self, *arguments: str, stdin: str = "", **options: str) -> str:
        """What a command that succeeds prints, beside its log."""
        done = self.run(*arguments, stdin=stdin, **options)
        assert done.status == 0, done
        assert all(line.startswith("{") for line in done.err.splitlines()), done
        return done.out.rstrip("\n")

    def refusal(self, *arguments: str, **options: str) -> str:
        """The one sentence with which a command refuses, having changed nothing in its folder."""
        before = contents(self.folder)
        sentence = sentence_of(self.run(*arguments, **options))
        assert contents(self.folder) == before
        return sentence


def run_process(folder: Path, *arguments: str, stdin: str = "", wrapper: tuple[str, ...] = (), **options: str) -> Done:
    """Run a command in a process of its own, below the commands of `wrapper` if there are any."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "chatd", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment(folder / "data", limits=False, **options),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def sentence_of(done: Done) -> str:
    assert (done.status, done.out) == (1, ""), done
    assert re.fullmatch(r"chatd: [^\n]+\n", done.err), done.err
    return done.err


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with none."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
