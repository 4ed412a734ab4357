"""Ids: UUIDv7 text, so that they sort by time and index well. The one door to uuid_utils."""

from __future__ import annotations

from typing import Final

import uuid_utils

#: The text of a new UUIDv7 (RFC 9562 section 5.7), 36 characters, growing within this process.
new_uuid: Final = uuid_utils.uuid7


def new_id() -> str:
    return str(new_uuid())
