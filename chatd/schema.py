"""The contracts, made from the types: JSON Schema, TypeScript, AsyncAPI for the WebSocket, OpenAPI for the HTTP side.

What is checked at the doors is what is described here: the messages of `protocol` and the operations that
`chat.contracts` lists. Called by the command line (`chatd schema`) and by the two paths that serve the contracts.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, get_args

import msgspec

from chatd import __version__
from chatd.errors import STATUS
from chatd.protocol import ClientMessage, ServerMessage, wire_name
from chatd.records import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: JSON as Python has it.
Json: TypeAlias = dict[str, Any]

_IN_SCHEMA: Final = "#/$defs/{name}"
_IN_COMPONENTS: Final = "#/components/schemas/{name}"
#: Messages whose list `messages` carries records that are encoded already, so that no field names their type.
_CARRIERS: Final = ("RoomHistory", "UnreadDms")


class Operation(NamedTuple):
    """One method of one path. `form` is the body that is asked for, `answer` the record that is answered.

    `noun` is the name under which a list of such records is answered, `query` the parameters that are understood.
    """

    method: str
    path: str
    summary: str
    is_open: bool
    status: int = 200
    form: type | None = None
    answer: type | None = None
    noun: str | None = None
    query: Sequence[str] = ()


def json_schema() -> Json:
    """Every message of the WebSocket side as JSON Schema (2020-12)."""
    client, server = get_args(ClientMessage), get_args(ServerMessage)
    components = _components((*client, *server), ref_template=_IN_SCHEMA)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "chatd",
        "$defs": {
            **components,
            "ClientMessage": {"oneOf": [{"$ref": _IN_SCHEMA.format(name=kind.__name__)} for kind in client]},
            "ServerMessage": {"oneOf": [{"$ref": _IN_SCHEMA.format(name=kind.__name__)} for kind in server]},
        },
    }


def _components(kinds: Iterable[type], *, ref_template: str) -> Json:
    """The schemas of these messages and of all records in them, by name."""
    _, components = msgspec.json.schema_components((*kinds, Message), ref_template=ref_template)
    for name in _CARRIERS:
        components[name]["properties"]["messages"]["items"] = {"$ref": ref_template.format(name="Message")}
    return components


def asyncapi() -> Json:
    """The WebSocket side as an AsyncAPI 3 document; clients send what the server receives."""
    client, server = get_args(ClientMessage), get_args(ServerMessage)
    components = _components((*client, *server), ref_template=_IN_COMPONENTS)
    messages = {
        wire_name(kind.__name__): {
            "name": wire_name(kind.__name__),
            "contentType": "application/json",
            "payload": {"$ref": _IN_COMPONENTS.format(name=kind.__name__)},
        }
        for kind in (*client, *server)
    }

    def operation(action: str, kinds: Iterable[type]) -> Json:
        names = [wire_name(kind.__name__) for kind in kinds]
        return {
            "action": action,
            "channel": {"$ref": "#/channels/chat"},
            "messages": [{"$ref": f"#/channels/chat/messages/{name}"} for name in names],
        }

    return {
        "asyncapi": "3.0.0",
        "info": {"title": "chatd", "version": __version__},
        "channels": {
            "chat": {
                "address": "/",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {"receive": operation("receive", client), "send": operation("send", server)},
        "components": {"messages": messages, "schemas": components},
    }


def openapi(operations: Sequence[Operation]) -> Json:
    """The HTTP side as an OpenAPI 3.1 document."""
    kinds = {kind for operation in operations for kind in (operation.form, operation.answer) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_IN_COMPONENTS)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        path = re.sub(r":(\w+)", r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "chatd", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


#: RFC 9457, with the words of the protocol.
_PROBLEM: Final[Json] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": sorted(STATUS)},
        "retryAfterMs": {"type": "integer"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def _described(operation: Operation, schema_of: Mapping[type, Json]) -> Json:
    variable = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r":(\w+)", operation.path)
    ]
    asked = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in operation.query]
    described: Json = {
        "summary": operation.summary,
        "parameters": [*variable, *asked],
        "responses": {
            str(operation.status): _answered(operation, schema_of),
            "default": {
                "description": "A refusal: `detail` says what to do next.",
                "content": {"application/problem+json": {"schema": {"$ref": _IN_COMPONENTS.format(name="Problem")}}},
            },
        },
    }
    if not operation.is_open:
        described["security"] = [{"token": []}]
    if operation.form is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": schema_of[operation.form]}}}
    return described


def _answered(operation: Operation, schema_of: Mapping[type, Json]) -> Json:
    described: Json = {"description": operation.summary}
    if operation.answer is None:
        return described
    schema: Json = schema_of[operation.answer]
    if operation.noun is not None:
        schema = {
            "type": "object",
            "required": [operation.noun, "hasMore"],
            "properties": {operation.noun: {"type": "array", "items": schema}, "hasMore": {"type": "boolean"}},
        }
    described["content"] = {"application/json": {"schema": schema}}
    return described


def text_of(contract: Json) -> str:
    return json.dumps(contract, indent=2, ensure_ascii=False)


# -- TypeScript ---------------------------------------------------------------------------------------------------


def typescript() -> str:
    """Every message of the WebSocket side as TypeScript types."""
    lines = ["// Made by `chatd schema typescript`; changes belong into chatd."]
    for name, schema in json_schema()["$defs"].items():
        lines.append("")
        if schema.get("type") == "object" and "properties" in schema:
            required = set(schema.get("required", ()))
            lines.append(f"export interface {name} {{")
            lines += [
                f"  {field}{'' if field in required else '?'}: {_type_of(inner)};"
                for field, inner in schema["properties"].items()
            ]
            lines.append("}")
        else:
            lines.append(f"export type {name} = {_type_of(schema)};")
    return "\n".join(lines)


_PLAIN: Final = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def _type_of(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(_type_of(inner) for inner in schema[union])
    kind = schema.get("type")
    if kind == "array":
        return f"Array<{_type_of(schema.get('items', {}))}>"
    if kind == "object":
        return f"Record<string, {_type_of(schema.get('additionalProperties', {}))}>"
    return _PLAIN.get(str(kind), "unknown")
