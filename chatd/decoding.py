"""From a text frame to a client message, and from a faulty one to a sentence that names the field and the fault.

The sentences are for somebody at a keyboard with wscat: they say what was wrong and what would be right.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

from chatd.errors import Refusal, bad_fields
from chatd.protocol import CLIENT_TYPES, MAX_ID_BYTES, ClientMessage, wire_name
from chatd.records import encode_json

_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)
_loose_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_SHAPES: Final = {wire_name(cls.__name__): cls for cls in get_args(ClientMessage)}
#: A NUL character in JSON text; behind an odd number of backslashes it is these six characters as such.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
#: The length of a field's name that is told, and how many such faults are.
MAX_NAME: Final = 64
MAX_NAMED: Final = 5
_HALF: Final = re.compile("[\ud800-\udfff]")


def decode(text: str) -> ClientMessage:
    """One text frame as a message.

    Raises `BadMessage`, a `Refusal` with code `bad_message` whose detail names the field and the fault.
    """
    try:
        message = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise _explained(error, text) from None
    if faults := nul_faults(text):
        request_id = None if "id" in faults else message.id
        raise BadMessage(bad_fields(faults).detail, request_id=request_id)
    if message.id is not None and len(message.id.encode()) > MAX_ID_BYTES:
        raise BadMessage(f"The field `id` is longer than {MAX_ID_BYTES} bytes.", request_id=None)
    return message


def nul_faults(text: str) -> dict[str, str]:
    """The fields of a JSON object that have a NUL character in them, with the fault: no database is to see one.

    SQLite cuts a text there and PostgreSQL refuses it. It can only come as an escape, whose backslash is not escaped.
    """
    if "\\u0000" not in text:
        return {}
    fields = _loose_decoder.decode(text).items()
    return {name: "has a NUL character in it" for name, value in fields if _NUL.search(encode_json(value))}


def half_pair_faults(text: str) -> dict[str, str]:
    """The fields of what is no JSON object only because of a surrogate without its other half, with the fault.

    It is no character. Most libraries of JSON write such an escape where a text was cut in the middle of one.
    """
    if "\\ud" not in text.lower():
        return {}
    fields = [
        name
        for name, value in _lenient(text).items()
        if len(name) <= MAX_NAME and not _HALF.search(name) and _HALF.search(json.dumps(value, ensure_ascii=False))
    ]
    return dict.fromkeys(fields[:MAX_NAMED], "has half of a surrogate pair in it, which is no character")


def _lenient(text: str) -> dict[str, Any]:
    """A JSON object in which there may be halves of surrogate pairs; empty if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class BadMessage(Refusal):
    """A frame that is no message of the protocol; `request_id` is its `id`, if that could be read."""

    def __init__(self, detail: str, *, request_id: str | None) -> None:
        super().__init__("bad_message", detail)
        self.request_id = request_id


_UNKNOWN_TYPE = re.compile(r"Invalid value '(?P<value>.*)' - at `\$\.type`", re.DOTALL)
_AT = re.compile(r"(?P<fault>.*) - at `\$\.?(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)


def _explained(error: Exception, text: str) -> BadMessage:
    """msgspec's error as a sentence for somebody at a keyboard, with the `id` of the request where it has one."""
    request_id: str | None = None
    kind, shape = "this message", None
    if isinstance(error, msgspec.DecodeError | UnicodeEncodeError) and (faults := half_pair_faults(text)):
        return BadMessage(bad_fields(faults).detail, request_id=_usable_id(_lenient(text)))
    if isinstance(error, msgspec.ValidationError):
        if not text.lstrip().startswith("{"):
            return BadMessage('A message is one JSON object, such as {"type":"ping"}.', request_id=None)
        try:
            loose = _loose_decoder.decode(text)
        except (msgspec.DecodeError, RecursionError):
            # The fault came first; what is behind it is no JSON, or too deep.
            loose = {}
        request_id = _usable_id(loose)
        if loose.get("type") in CLIENT_TYPES:
            kind, shape = f"`{loose['type']}`", _SHAPES[loose["type"]]
    return BadMessage(_sentence(error, kind, shape=shape), request_id=request_id)


def _usable_id(loose: dict[str, Any]) -> str | None:
    """The `id` of a request that is wrong, if that is none of what is wrong."""
    request_id = loose.get("id")
    if not isinstance(request_id, str) or _HALF.search(request_id) or len(request_id.encode()) > MAX_ID_BYTES:
        return None
    return request_id


def _sentence(error: Exception, kind: str, *, shape: type | None) -> str:
    if isinstance(error, RecursionError):
        return "This message is nested too deeply; keep `metadata` flat."
    if not isinstance(error, msgspec.ValidationError):
        return f'This is not JSON ({error}). A message is one JSON object, such as {{"type":"ping"}}.'
    return validation_sentence(error, kind, shape=shape)


def validation_sentence(error: msgspec.ValidationError, kind: str, *, shape: type | None) -> str:
    """The field and the fault of JSON that is not what it should be (`kind`: a message, a form), for both doors.

    `shape` is the class that it should be, where that is known; it knows what a field may be.
    """
    fault = str(error)
    if found := _UNKNOWN_TYPE.fullmatch(fault):
        return f"There is no message type `{found['value'][:64]}`. The types are: {', '.join(CLIENT_TYPES)}."
    where = f" of {kind}"
    if found := _AT.fullmatch(fault):
        fault, field = found["fault"], found["field"]
        if not _MISSING.fullmatch(fault) and not _UNKNOWN_FIELD.fullmatch(fault):
            words = f"; it is one of {', '.join(allowed)}" if (allowed := _allowed(shape, field)) else ""
            return f"The field `{field[:64]}`{where} is wrong: {fault[0].lower()}{fault[1:].replace('`', '')}{words}."
        # What may be in a field is not told.
        where, shape = f" in `{field[:64]}`{where}", None
    if found := _MISSING.fullmatch(fault):
        return f"The field `{found['field'][:64]}`{where} is missing."
    if found := _UNKNOWN_FIELD.fullmatch(fault):
        names = [field.encode_name for field in _fields(shape)]
        known = f" Its fields are: {', '.join(names)}." if names else ""
        return f"There is no field `{found['field'][:64]}`{where}; leave it out.{known}"
    return f"{fault.replace('`', '')}."


def _allowed(shape: type | None, name: str) -> list[str]:
    """The words that a field may be, where it is one of a few."""
    types = [field.type for field in _fields(shape) if field.encode_name == name]
    types = [inner for type_ in types for inner in (type_.types if isinstance(type_, inspect.UnionType) else [type_])]
    return [str(value) for type_ in types if isinstance(type_, inspect.LiteralType) for value in type_.values]


def _fields(shape: type | None) -> tuple[inspect.Field, ...]:
    if shape is None:
        return ()
    info = inspect.type_info(shape)
    assert isinstance(info, inspect.StructType), "messages and forms are"
    return info.fields
