"""What can be switched off, by `[server.features]` and while the daemon runs; both doors ask here before every rule.

The tables of `dispatch` and `routes` name the switch of each rule. One without a switch is always there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from chatd.errors import Refusal

if TYPE_CHECKING:
    from chatd.chat.context import Chat

#: The names of the switches, as in `config.Features`.
Feature: TypeAlias = Literal[
    "registration", "room_creation", "edits", "reactions", "pins", "threads", "receipts", "direct_messages", "blocks",
    "moderation", "invitations", "presence", "typing", "notifications", "search", "profiles", "uploads",
]  # fmt: skip

#: What is said where it is off.
_SENTENCES: Final[dict[Feature, str]] = {
    "registration": "Registration is switched off on this server; ask its administrator.",
    "room_creation": "New rooms are switched off on this server; join one that is there.",
    "edits": "Editing and deleting messages is switched off on this server; send another message.",
    "reactions": "Reactions are switched off on this server; send a message.",
    "pins": "Pinned messages are switched off on this server; ask its administrator.",
    "threads": "Threads are switched off on this server; read the room's history.",
    "receipts": "Read marks and receipts are switched off on this server; ask its administrator.",
    "direct_messages": "Direct messages are switched off on this server; write in a room.",
    "blocks": "Blocking users is switched off on this server; ask a moderator of the room.",
    "moderation": "Moderation is switched off on this server; ask its administrator.",
    "invitations": "Invitations are switched off on this server; tell others the name of a public room.",
    "presence": "Who is online is switched off on this server; ask its administrator.",
    "typing": "Who types is switched off on this server; just send the message.",
    "notifications": "Notifications are switched off on this server; read the rooms themselves.",
    "search": "Search is switched off on this server; read the room's history.",
    "profiles": "Profiles of others are switched off on this server; names stand in the rooms.",
    "uploads": "Files are switched off on this server; send text or code.",
}


def check_feature(chat: Chat, feature: Feature | None) -> None:
    """Raise `Refusal` (`feature_disabled`) if the switch of this name is off."""
    if feature is not None and not getattr(chat.options.features, feature):
        raise Refusal("feature_disabled", _SENTENCES[feature])
