"""What each command of the command line takes, as argparse is told. Used by `__main__`, which runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

#: An access token for `chatd chat`; unlike all others of its prefix it is no option of chatd.toml.
TOKEN_VARIABLE: Final = "CHATD_TOKEN"  # noqa: S105 - the name of one


def declare_migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("way", choices=["up", "down", "status"])
    parser.add_argument(
        "--to", type=int, metavar="N", help="stop at this migration (default: up the newest, down one step)"
    )
    parser.add_argument("--yes", action="store_true", help="down: do not ask before tables are dropped")


def declare_user(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["add", "list", "disable", "password"])
    parser.add_argument("user", nargs="?", metavar="USER", help="username")
    parser.add_argument("--email", help="for add; the password is asked for, or read from standard input")


def declare_token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER", help="username")


def declare_room(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "create", "delete", "members"])
    parser.add_argument("room", nargs="?", metavar="ROOM", help="name or id")
    parser.add_argument("--private", action="store_true", help="for create: only who is invited may join")
    parser.add_argument("--owner", metavar="USER", help="for create: who owns it")


def declare_member(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", metavar="ROOM", help="name or id")
    parser.add_argument("user", metavar="USER", help="username")


def declare_ban(parser: argparse.ArgumentParser) -> None:
    declare_member(parser)
    parser.add_argument("--reason", help="for moderators to read")


def declare_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "logs", nargs="*", type=Path, metavar="LOG", help="what a client wrote, or a folder of *.ndjson"
    )
    parser.add_argument("--database", metavar="FILE", help="its file, an export, or a URL (default: as configured)")
    parser.add_argument("--settled", action="store_true", help="all clients were there at the end and heard everything")
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="faults to print (default: %(default)s)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write what of the database is checked, as NDJSON")


def declare_audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", default="", metavar="USER", help="username or id")
    parser.add_argument("--action", default="", metavar="ACTION", help="like sign_in_failed, limited, member_removed")
    parser.add_argument("--room", default="", metavar="ROOM", help="name or id")
    parser.add_argument("--since", default="", metavar="TIME", help="a time, or how long ago, like 90m or 7d")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="events to show (default: %(default)s)")
    parser.add_argument("--follow", action="store_true", help="go on with what happens from now on")


def declare_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("form", choices=("json", "typescript", "asyncapi", "openapi"))


def declare_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", metavar="ROOM", help="a room's id or name")
    parser.add_argument("--url", help="where the daemon is (default: as configured, ws://127.0.0.1:3001/)")
    parser.add_argument("--api", metavar="URL", help="its HTTP side, for rooms by name (default: as configured)")
    parser.add_argument("--token", help=f"access token (default: ${TOKEN_VARIABLE}, which others do not see)")
