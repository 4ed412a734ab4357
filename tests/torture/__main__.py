"""Torture chatd: clients that do everything while everything fails, and a checker that knows what was promised.

    python -m tests.torture --nodes 1 --seconds 600 --seed 1
    python -m tests.torture --nodes 3 --each 50
    python -m tests.torture --nodes 3 --seconds 60 --faults node-kill,redis-kill --clients 100

Prints what it did and what it found; exits with 1, the seed, the folder of diaries and logs, and the command that does
it again, if a promise was broken, or if service was not back within 10 s of the return of what had failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tests.torture.nemesis import FAULTS, kinds_for
from tests.torture.run import torture

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds within which service has to be back.
BACK_WITHIN_S: Final = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one torture and print its report; the exit code says whether every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="one embedded node, or a cluster of three")
    parser.add_argument(
        "--seconds",
        type=float,
        help="how long there is load, or longer if faults ask it (default: 60; 0 with --each)",
    )
    parser.add_argument(
        "--each", type=int, metavar="N", help="go on until every kind of fault was inflicted so often (default: once)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {','.join(FAULTS)}")
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--rooms", type=int, default=12)
    parser.add_argument("--rate", type=float, default=120, help="acts a second of all clients, nearly all are sends")
    parser.add_argument("--folder", type=Path, help="keep logs there, and more after faults (default: in /tmp)")
    args = parser.parse_args(argv)
    if args.each is not None and args.each < 1:
        parser.error("--each N: every kind of fault is inflicted at least once")
    if args.seconds is None:
        args.seconds = 60 if args.each is None else 0
    args.each = args.each or 1
    possible = kinds_for(args.nodes)
    kinds = {"all": possible, "none": []}.get(args.faults, args.faults.split(","))
    if unknown := set(kinds) - set(possible):
        parser.error(f"no such fault with {args.nodes} node(s): {', '.join(sorted(unknown))}")
    if os.geteuid() != 0 and "full-disk" in kinds:
        parser.error("only root can mount a disk to fill: leave full-disk out of --faults")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chatd-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = trio.run(
        partial(
            torture, folder, nodes=args.nodes, seconds=args.seconds, clients=args.clients, rooms=args.rooms,
            kinds=kinds, seed=args.seed, each=args.each, rate=args.rate, back_within_s=BACK_WITHIN_S,
        )
    )  # fmt: skip
    sys.stdout.write(f"{report}\n")
    if report.faults:
        given = {name: value for name, value in vars(args).items() if name not in {"folder", "seed"}}
        options = [f"--{name}={value}" for name, value in given.items()]
        again = shlex.join(["python", "-m", "tests.torture", f"--seed={args.seed}", *options])
        sys.stdout.write(f"Diaries, logs and data are in {folder}\nOnce more: {again}\n")
    elif args.folder is None:
        shutil.rmtree(folder)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
