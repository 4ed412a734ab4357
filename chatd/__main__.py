"""The command line: `chatd serve` and what an administrator needs beside it.

Each command is a coroutine function that gets the configuration and its arguments and returns what to print. Wrong
usage exits with 2; whatever else stands in the way is one sentence on standard error and exit 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import trio

from chatd import __version__, schema, telemetry
from chatd.administration import (
    add_user,
    check,
    create_room,
    delete_room,
    disable_user,
    issue_token,
    list_members,
    list_rooms,
    list_users,
    migrate_schema,
    remove_member,
    set_password,
    unban,
)
from chatd.arguments import (
    TOKEN_VARIABLE,
    declare_audit,
    declare_ban,
    declare_chat,
    declare_file,
    declare_member,
    declare_migrate,
    declare_room,
    declare_schema,
    declare_token,
    declare_user,
    declare_verify,
)
from chatd.backends import StartFault
from chatd.backups import back_up, restore
from chatd.chat.contracts import operations
from chatd.chat.routes import ROUTES
from chatd.config import Config, ConfigError
from chatd.configfile import load_config
from chatd.errors import Refusal
from chatd.process import forbid_core_dumps, ignore_other_signals, raise_file_limit, warn_of_few_files
from chatd.server import serve
from chatd.store.migrations import SchemaFault
from chatd.systemd import take_systemd
from chatd.trail import show_trail
from chatd.verify.exports import ExportFault
from chatd.verify.findings import Findings
from chatd.verify.log import LogFault
from chatd.verify.stays import Rules
from chatd.verify.verification import export, find_logs, verify

log = telemetry.get_logger(__name__)


Run: TypeAlias = Callable[[Config, argparse.Namespace], Awaitable[str]]
Declare: TypeAlias = Callable[[argparse.ArgumentParser], None]


async def run_serve(config: Config, args: argparse.Namespace) -> str:
    ignore_other_signals()
    raise_file_limit()
    forbid_core_dumps()
    # A loop that hangs until systemd ends it (SIGABRT) says where.
    faulthandler.enable()
    systemd = take_systemd(os.environ)
    await serve(config, partial(_welcome, config), reread=partial(_read_config, args), systemd=systemd)
    return ""


def _welcome(config: Config, websocket_port: int, http_port: int) -> None:
    """Say where the daemon listens: to a person how to try it, otherwise as a log line."""
    log.info("listening", websocket=websocket_port, http=http_port, pid=os.getpid())
    warn_of_few_files(config.limits.connections)
    if not sys.stdout.isatty():
        return
    http = f"http{_s(config.http.tls_cert)}://{config.http.host}:{http_port}"
    websocket = f"ws{_s(config.websocket.tls_cert)}://{config.websocket.host}:{websocket_port}"
    print(
        f"""
chatd {__version__} listens on {websocket} and {http}. Data: {config.server.data_path}
Try it:
  curl -s {http}/api/auth/register -H 'Content-Type: application/json' \\
       -d '{{"email":"ada@example.org","username":"ada","password":"correct horse"}}'
  npx wscat -c {websocket}
  > {{"type":"authenticate","token":"THE TOKEN FROM ABOVE"}}
Stop it with Ctrl-C.
""",
        flush=True,
    )


def _s(certificate: str) -> str:
    """The letter that makes a URL's scheme one of TLS."""
    return "s" if certificate else ""


async def run_check(config: Config, _args: argparse.Namespace) -> str:
    return await check(config)


async def run_migrate(config: Config, args: argparse.Namespace) -> str:
    if args.way == "down" and not args.yes:
        _ask_before_dropping(config)
    return await migrate_schema(config, args.way, to=args.to)


def _ask_before_dropping(config: Config) -> None:
    """Go on only with a yes from the terminal. Raises `StartFault`."""
    if not sys.stdin.isatty():
        raise StartFault("`chatd migrate down` drops tables with all that is in them; say --yes if that is meant.")
    where = "the database of [database] url" if config.database.url else config.server.data_path
    print(f"This drops tables with all that is in them, in {where}.")
    if input("Go on? Type yes: ").strip() != "yes":
        raise StartFault("Nothing was changed.")


async def run_user(config: Config, args: argparse.Namespace) -> str:
    match args.action:
        case "list":
            return await list_users(config)
        case "add":
            if not args.user or not args.email:
                raise UsageError("chatd user add needs a name and --email.")
            return await add_user(config, args.user, args.email, _ask_password())
        case _:
            if not args.user:
                raise UsageError(f"chatd user {args.action} needs a name.")
            if args.action == "disable":
                return await disable_user(config, args.user)
            return await set_password(config, args.user, _ask_password())


def _ask_password() -> str:
    """From the terminal, unseen; from standard input where there is none."""
    return getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


async def run_schema(_config: Config, args: argparse.Namespace) -> str:
    match args.form:
        case "json":
            return schema.text_of(schema.json_schema())
        case "typescript":
            return schema.typescript()
        case "asyncapi":
            return schema.text_of(schema.asyncapi())
        case _:
            return schema.text_of(schema.openapi(operations(ROUTES)))


async def run_token(config: Config, args: argparse.Namespace) -> str:
    return await issue_token(config, args.user)


async def run_room(config: Config, args: argparse.Namespace) -> str:
    if args.action == "list":
        return await list_rooms(config)
    if not args.room:
        raise UsageError(f"chatd room {args.action} needs a room.")
    match args.action:
        case "create":
            return await create_room(config, args.room, kind="private" if args.private else "public", owner=args.owner)
        case "delete":
            return await delete_room(config, args.room)
        case _:
            return await list_members(config, args.room)


async def run_kick(config: Config, args: argparse.Namespace) -> str:
    return await remove_member(config, args.room, args.user, reason="kicked")


async def run_ban(config: Config, args: argparse.Namespace) -> str:
    return await remove_member(config, args.room, args.user, reason="banned", note=args.reason)


async def run_unban(config: Config, args: argparse.Namespace) -> str:
    return await unban(config, args.room, args.user)


async def run_backup(config: Config, args: argparse.Namespace) -> str:
    return await back_up(config, args.file, _show_progress)


async def run_restore(config: Config, args: argparse.Namespace) -> str:
    return await restore(config, args.file, _show_progress)


async def run_audit(config: Config, args: argparse.Namespace) -> str:
    if args.limit < 1:
        raise UsageError("chatd audit --limit N: show at least one.")
    await show_trail(
        config, user=args.user, action=args.action, room=args.room, since=args.since, most=args.limit,
        is_followed=args.follow, write=partial(print, flush=True),
    )  # fmt: skip
    return ""


def _show_progress(done: int, total: int) -> None:
    """To a person at a terminal; pages are what a database is made of."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} pages", end=end, file=sys.stderr, flush=True)


async def run_verify(config: Config, args: argparse.Namespace) -> str:
    source, data_path = args.database or config.database, config.server.data_path
    if not args.logs and args.export is None:
        raise UsageError("chatd verify needs logs of clients, or --export FILE.")
    if args.faults < 1:
        raise UsageError("chatd verify --faults N: show at least one.")
    told = [] if args.export is None else [await export(source, args.export, data_path=data_path)]
    if args.logs:
        findings = Findings()
        rules = Rules(is_settled=args.settled, max_resume_events=config.resume.max_events)
        await verify(find_logs(args.logs), source, rules, data_path=data_path, findings=findings)
        told.append(findings.report(most=args.faults))
        if findings.broken:
            raise FoundFaults("\n".join(told))
    return "\n".join(told)


async def run_chat(config: Config, args: argparse.Namespace) -> str:
    from chatd.terminal import ChatFault, chat  # noqa: PLC0415 - the daemon does without the client

    token = args.token or os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise UsageError(f"chatd chat needs --token or {TOKEN_VARIABLE}; `chatd token USER` prints one.")
    url = args.url or f"ws{_s(config.websocket.tls_cert)}://{config.websocket.host}:{config.websocket.port}/"
    api_url = args.api or f"http{_s(config.http.tls_cert)}://{config.http.host}:{config.http.port}"
    if not api_url.startswith(("http://", "https://")):
        raise UsageError("--api is a URL such as http://127.0.0.1:3000.")
    try:
        await chat(url, token, args.room, api_url=api_url.rstrip("/"))
    except ChatFault as fault:
        raise StartFault(str(fault)) from None
    return ""


class FoundFaults(Exception):
    """A check was made, and what it found is wrong; `str()` is what to print."""


class UsageError(Exception):
    """The command line makes no sense; `str()` says what would."""


class Command(NamedTuple):
    """One command of the command line."""

    run: Run
    help: str
    example: str
    declare: Declare | None = None


COMMANDS: Final[dict[str, Command]] = {
    "serve": Command(run_serve, "run the daemon", "chatd serve --config /etc/chatd/chatd.toml"),
    "check": Command(run_check, "read the configuration and try the back ends, changing nothing", "chatd check"),
    "migrate": Command(
        run_migrate, "bring the schema up or down, or show where it is", "chatd migrate up", declare_migrate
    ),
    "user": Command(run_user, "accounts", "chatd user add ada --email ada@example.org", declare_user),
    "room": Command(run_room, "rooms", "chatd room create club --private --owner ada", declare_room),
    "kick": Command(run_kick, "remove somebody from a room", "chatd kick lobby bob", declare_member),
    "ban": Command(run_ban, "keep somebody out of a room", "chatd ban lobby bob --reason spam", declare_ban),
    "unban": Command(run_unban, "let somebody join a room again", "chatd unban lobby bob", declare_member),
    "backup": Command(
        run_backup, "copy the embedded database into a file, while it is used", "chatd backup monday.db", declare_file
    ),
    "restore": Command(
        run_restore, "put a backup in the place of the embedded database", "chatd restore monday.db", declare_file
    ),
    "verify": Command(
        run_verify, "check the promises by what clients wrote down", "chatd verify ada.ndjson", declare_verify
    ),
    "audit": Command(
        run_audit, "who did what, when and from where", "chatd audit --user ada --since 7d --follow", declare_audit
    ),
    "token": Command(run_token, "print an access token, ready for wscat or k6", "chatd token ada", declare_token),
    "schema": Command(
        run_schema, "print the contracts, made from the types", "chatd schema typescript > chatd.ts", declare_schema
    ),
    "chat": Command(run_chat, "talk in a room, from a terminal or a pipe", "chatd chat lobby", declare_chat),
}


def make_parser() -> argparse.ArgumentParser:
    """The command line as argparse sees it."""
    parser = argparse.ArgumentParser("chatd", description="A chat server daemon for raw WebSocket clients.")
    parser.add_argument("--version", action="version", version=f"chatd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"example: {command.example}",
        )
        sub.add_argument(
            "--config", type=Path, metavar="FILE", help="chatd.toml to use (default: ./chatd.toml if there is one)"
        )
        if command.declare is not None:
            command.declare(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        told = _run(args)
    except (UsageError, LogFault, ExportFault) as error:
        parser.error(str(error))
    except FoundFaults as found:
        print(found)
        sys.exit(1)
    except (ConfigError, StartFault, SchemaFault) as error:
        sys.exit(f"chatd: {error}")
    except Refusal as refusal:
        sys.exit(f"chatd: {refusal.detail}")
    except KeyboardInterrupt:
        sys.exit(130)
    if told:
        print(told)


def _read_config(args: argparse.Namespace) -> Config:
    variables = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return load_config(args.config, variables)


def _run(args: argparse.Namespace) -> str:
    """What a command prints. What stopped it is raised as itself, however many nurseries it came through."""
    try:
        config = _read_config(args)
        telemetry.configure_logging(config.telemetry.log_level, config.telemetry.log_format, sys.stderr)
        return trio.run(COMMANDS[args.command].run, config, args)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


if __name__ == "__main__":
    main()
