"""The contracts: every path and message is in them, what they point to is there, and answers are as they say."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest

from chatd import schema
from chatd.__main__ import COMMANDS
from chatd.chat import forms
from chatd.chat.contracts import ROWS, operations
from chatd.chat.routes import ROUTES
from chatd.errors import STATUS
from chatd.protocol import ClientMessage, ServerMessage, wire_name
from tests.daemon import open_daemon
from tests.shell import run_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT, SERVER = get_args(ClientMessage), get_args(ServerMessage)
DOCUMENTS = {
    "json": schema.json_schema(),
    "asyncapi": schema.asyncapi(),
    "openapi": schema.openapi(operations(ROUTES)),
}


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, inner in part.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def faults(document: dict[str, Any], expected: dict[str, Any], value: Any, place: str = "$") -> Iterator[str]:
    """How a value breaks a schema, as far as types, fields and items go."""
    if "$ref" in expected:
        yield from faults(document, resolve(document, expected["$ref"]), value, place)
        return
    for union in ("anyOf", "oneOf"):
        if union in expected:
            if all(list(faults(document, one, value, place)) for one in expected[union]):
                yield f"{place}: none of {union}"
            return
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if "type" in expected and not isinstance(value, types.get(expected["type"], object)):
        yield f"{place}: no {expected['type']}"
    elif isinstance(value, dict) and "properties" in expected:
        yield from (f"{place}: no {name}" for name in expected.get("required", ()) if name not in value)
        yield from (f"{place}: {name} is unknown" for name in value if name not in expected["properties"])
        for name, inner in value.items():
            yield from faults(document, expected["properties"].get(name, {}), inner, f"{place}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from faults(document, expected.get("items", {}), inner, f"{place}[]")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_contract_points_to_is_in_it(name: str) -> None:
    document = DOCUMENTS[name]
    assert all(resolve(document, reference) for reference in references(document))


def test_every_path_is_described_and_no_other() -> None:
    assert ROWS.keys() == {(route.method, route.path) for route in ROUTES}
    described = {
        (method.upper(), re.sub(r"{(\w+)}", r":\1", path), "security" not in operation)
        for path, methods in DOCUMENTS["openapi"]["paths"].items()
        for method, operation in methods.items()
    }
    assert described == {(route.method, route.path, route.is_open) for route in ROUTES}


def test_every_form_is_asked_for_somewhere() -> None:
    described = DOCUMENTS["openapi"]["components"]["schemas"]
    made = {name for name, kind in vars(forms).items() if isinstance(kind, type) and issubclass(kind, forms._Form)}
    assert {name for name in made if not name.startswith("_")} <= described.keys()
    assert described["Problem"]["properties"]["code"]["enum"] == sorted(STATUS)


def test_every_message_is_described_with_who_sends_it() -> None:
    document = DOCUMENTS["asyncapi"]
    for action, kinds in (("receive", CLIENT), ("send", SERVER)):
        names = [reference["$ref"].rpartition("/")[2] for reference in document["operations"][action]["messages"]]
        assert sorted(names) == sorted(wire_name(kind.__name__) for kind in kinds)
    for kind in (*CLIENT, *SERVER):
        payload = resolve(document, document["components"]["messages"][wire_name(kind.__name__)]["payload"]["$ref"])
        assert payload["properties"]["type"]["enum"] == [wire_name(kind.__name__)]
        assert kind.__name__ in DOCUMENTS["json"]["$defs"]


def test_typescript_has_every_message_and_knows_every_type_that_it_names() -> None:
    text = schema.typescript()
    declared = set(re.findall(r"^export (?:interface|type) (\w+)", text, re.MULTILINE))
    assert {kind.__name__ for kind in (*CLIENT, *SERVER)} | {"ClientMessage", "ServerMessage", "Message"} <= declared
    assert set(re.findall(r"\b[A-Z]\w+", re.sub(r'"[^"]*"|//.*', "", text))) - {"Array", "Record"} == declared
    assert "unknown" not in text.partition("interface RoomHistory")[2].partition("}")[0]


@pytest.mark.parametrize("form", ["json", "typescript", "asyncapi", "openapi"])
def test_command_prints_a_contract(tmp_path: Path, form: str) -> None:
    ended = run_process(tmp_path, "schema", form)
    assert ended.status == 0
    if form == "typescript":
        assert ended.out.strip() == schema.typescript()
    else:
        assert json.loads(ended.out) == DOCUMENTS[form]
    assert "schema" in COMMANDS


async def test_contracts_are_served_to_anybody(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        for name in ("openapi", "asyncapi"):
            answer = await daemon.http("GET", f"/api/{name}.json")
            assert (answer.status, answer.json()) == (200, DOCUMENTS[name])


async def test_answers_are_as_the_contracts_say(tmp_path: Path) -> None:
    document, messages = DOCUMENTS["openapi"], DOCUMENTS["json"]
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room = await daemon.create_room(ada, topic="tea", members=[bob.id])
        async with daemon.connect(bob) as client:
            heard = [await client.ask(type="get_history", roomId=room)]
            heard.append(await client.ask(type="join_room", roomId="nowhere"))
            body = {"content": "hello @bob", "metadata": {"a": 1}}
            await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=ada.token)
            heard.append(await client.heard("notification"))
            heard.append(await client.ask(type="get_history", roomId=room))
            heard += client.inbox
        assert {message["type"] for message in heard} >= {"authenticated", "error", "room_history", "new_message"}
        assert [list(faults(messages, messages["$defs"]["ServerMessage"], message)) for message in heard] == [
            [] for _ in heard
        ]
        for path in (
            "/api/users/me", f"/api/users/{bob.id}", f"/api/users?ids={bob.id}", "/api/rooms", f"/api/rooms/{room}",
            f"/api/rooms/{room}/members",
        ):  # fmt: skip
            shape = path.partition("?")[0].replace(room, "{id}").replace(bob.id, "{id}")
            described = document["paths"][shape]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            answer = await daemon.http("GET", path, token=ada.token)
            assert list(faults(document, described, answer.json())) == []
        problem = document["components"]["schemas"]["Problem"]
        refused = await daemon.http("GET", "/api/users/nobody", token=ada.token)
        assert list(faults(document, problem, refused.json())) == []
