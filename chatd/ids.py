"""Ids: UUIDv7 text, so that they sort by time and index well. The one door to uuid_utils."""

from __future__ import annotations

import re
from typing import Final

import uuid_utils

#: The text of a new UUIDv7 (RFC 9562 section 5.7), 36 characters, growing within this process.
new_uuid: Final = uuid_utils.uuid7
_FORM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def oldest_id_of(at_ms: int) -> str:
    """An id that no id made before this time (milliseconds since 1970) is above: an id begins with when it was made."""
    digits = f"{at_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def new_id() -> str:
    return str(new_uuid())


def is_id(text: str) -> bool:
    """Whether it has the form of an id, whatever it is of."""
    return _FORM.fullmatch(text) is not None
