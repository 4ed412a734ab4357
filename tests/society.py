"""Users, rooms, roles and blocks as they ought to be, and who may be told what: another opinion than the daemon's.

Nothing of chatd is in here. Every text that somebody writes is a secret of its own, a word that is nowhere else, and so
is every id; `may_know` says whether a user may be told of it at this moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAMES: Final = ("ada", "bob", "cyd", "dan", "eve")
HEIGHT: Final = {"readonly": 0, "member": 0, "moderator": 1, "owner": 2}
#: Secret words and ids wherever they stand in a text.
SECRETS: Final = re.compile(r"zq\d{4}zq|[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Place:
    """A room; a direct one has its two members for ever."""

    id: str
    kind: str
    #: With their roles, which only a direct room's are not looked up for.
    members: dict[str, str]
    banned: set[str] = field(default_factory=set)
    invited: set[str] = field(default_factory=set)
    is_deleted: bool = False

    def is_seen_by(self, name: str) -> bool:
        """They may know that there is such a room."""
        return not self.is_deleted and (self.kind == "public" or name in self.members or name in self.invited)

    def is_read_by(self, name: str) -> bool:
        return not self.is_deleted and name in self.members


@dataclass
class Said:
    """A message; `word` is the secret that it holds now, `deaf` are those who had blocked its sender then."""

    id: str
    place: Place
    sender: str
    word: str
    deaf: frozenset[str]
    is_deleted: bool = False


@dataclass
class Society:
    """Everything that is true."""

    places: list[Place] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    #: Who blocks whom.
    blocks: set[tuple[str, str]] = field(default_factory=set)
    #: Each secret with who may be told of it now.
    secrets: dict[str, Callable[[str], bool]] = field(default_factory=dict)
    #: Ids that a user has been allowed to know once: nobody forgets those.
    known: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NAMES})
    #: Of each emoji, who had blocked the one who chose it then.
    deaf_to: dict[str, frozenset[str]] = field(default_factory=dict)
    _words: int = 0

    def new_word(self, may_know: Callable[[str], bool]) -> str:
        """A secret that is nowhere else."""
        self._words += 1
        word = f"zq{self._words:04}zq"
        self.secrets[word] = may_know
        return word

    def allowed(self, name: str) -> set[str]:
        """Every secret that a user may be told of now."""
        found = {secret for secret, may_know in self.secrets.items() if may_know(name)}
        self.known[name] |= {secret for secret in found if "-" in secret}
        return found | self.known[name]

    # -- who stands how -----------------------------------------------------------------------------------------------

    def are_apart(self, one: str, other: str) -> bool:
        """One of them blocks the other."""
        return (one, other) in self.blocks or (other, one) in self.blocks

    def role(self, name: str, place: Place) -> str | None:
        if place.is_deleted or name not in place.members:
            return None
        if place.kind == "direct":
            return "readonly" if self.are_apart(*place.members) else "member"
        return place.members[name]

    def height(self, name: str, place: Place) -> int:
        role = self.role(name, place)
        return -1 if role is None else HEIGHT[role]

    def may_write(self, name: str, place: Place) -> bool:
        return self.role(name, place) in ("member", "moderator", "owner")

    def may_moderate(self, name: str, place: Place) -> bool:
        return self.height(name, place) >= HEIGHT["moderator"]

    def may_act_on(self, name: str, other: str, place: Place) -> bool:
        return self.may_moderate(name, place) and self.height(other, place) < self.height(name, place)

    def may_bring(self, name: str, other: str, place: Place) -> bool:
        return (
            self.may_moderate(name, place)
            and other not in place.members
            and other not in place.banned
            and (other, name) not in self.blocks
        )

    def may_join(self, name: str, place: Place) -> bool:
        if name in place.members:
            return not place.is_deleted
        is_let_in = place.kind == "public" or name in place.invited
        return not place.is_deleted and is_let_in and name not in place.banned

    def are_together(self, one: str, other: str) -> bool:
        """They share a room in which they are told of each other."""
        return any(
            place.is_read_by(one) and place.is_read_by(other)
            for place in self.places
            if place.kind != "direct" or not self.are_apart(one, other)
        )

    def direct(self, one: str, other: str) -> Place | None:
        return next((p for p in self.places if p.kind == "direct" and {one, other} == p.members.keys()), None)

    def blockers(self, name: str) -> frozenset[str]:
        return frozenset(other for other in NAMES if (other, name) in self.blocks)

    # -- what happens -------------------------------------------------------------------------------------------------

    def add_place(self, place: Place) -> Place:
        self.places.append(place)
        self.secrets[place.id] = place.is_seen_by
        return place

    def add_said(self, message_id: str, place: Place, sender: str, word: str) -> Said:
        """A message under a word that was made for it."""
        said = Said(message_id, place, sender, word, self.blockers(sender))
        self.said.append(said)
        self.secrets[message_id] = place.is_read_by
        self.hide_in(said, word)
        return said

    def hide_in(self, said: Said, word: str) -> None:
        """The word is what a message says now; nobody may be told what it said before."""
        said.word = word
        self.secrets[word] = lambda name: not said.is_deleted and said.word == word and said.place.is_read_by(name)

    def hide_on(self, said: Said, word: str, sender: str) -> None:
        """The word stands beside a message, for as long as that says anything."""
        self.deaf_to[word] = self.blockers(sender)
        self.secrets[word] = lambda name: not said.is_deleted and said.place.is_read_by(name)

    def drop(self, word: str) -> None:
        """Nobody may be told: it was refused."""
        self.secrets[word] = lambda _: False

    def remove(self, name: str, place: Place) -> None:
        place.members.pop(name, None)

    def let_in(self, name: str, place: Place) -> None:
        place.members.setdefault(name, "member")
        place.invited.discard(name)


def secrets_in(text: str) -> set[str]:
    return set(SECRETS.findall(text))


def pick(items: Iterable[Said], number: int) -> Said | None:
    found = list(items)
    return found[number % len(found)] if found else None
