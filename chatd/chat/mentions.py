"""Who is named in a text: `@username`, in any case, as a word of its own. Pure; the store knows who is a member.

An address like `ada@example.org` names nobody, and `@here`, `@all`, `@everyone` are plain text: there is no way to call
everybody. What is mentioned is bounded, so that a flood of names costs no more than a message.
"""

from __future__ import annotations

import re
from typing import Final

#: A username behind an `@` that no word runs into; a longer word is no username.
_MENTION: Final = re.compile(r"(?<![\w@])@(\w{3,50})(?!\w)")
_PLAIN: Final = frozenset({"here", "all", "everyone"})


def mentioned(content: str, *, at_most: int) -> list[str]:
    """The keys of the names in a text (`users.username_key`), each once, in their order, the first `at_most`."""
    names: dict[str, None] = {}
    for found in _MENTION.finditer(content):
        if len(names) == at_most:
            break
        name = found[1].casefold()
        if name not in _PLAIN:
            names[name] = None
    return list(names)


def newly_mentioned(before: str, content: str, *, at_most: int) -> list[str]:
    """Those that a text mentions, as `mentioned` finds them, and did not before it was changed."""
    known = mentioned(before, at_most=len(before))
    return [name for name in mentioned(content, at_most=at_most) if name not in known]
