"""Ids: UUIDv7 text, so that they sort by time and index well. The one door to uuid_utils."""

from __future__ import annotations

from typing import Final

import uuid_utils

#: The text of a new UUIDv7 (RFC 9562 section 5.7), 36 characters, growing within this process.
new_uuid: Final = uuid_utils.uuid7


def oldest_id_of(at_ms: int) -> str:
    """An id that no id made before this time (milliseconds since 1970) is above: an id begins with when it was made."""
    digits = f"{at_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def new_id() -> str:
    return str(new_uuid())
