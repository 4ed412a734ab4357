"""Finds the SQL texts: in the checkout they are the top-level folder `sql/`, in a wheel they travel as `chatd/_sql`.

Knows only where; reading and checking is the business of `store.queries` and `store.migrations`, its callers.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def sql_root() -> Traversable:
    """Return the folder that holds `migrations/` and `queries/`.

    An installed wheel holds a copy inside the package. A checkout, run in place or installed as editable, has no
    such copy, and the folder beside the package is the one that is edited; so the copy wins where there is one.
    The tree that is returned may live in a zip file: use `iterdir`, `joinpath` and `read_text` of it only.
    """
    package = files("chatd")
    packed = package / "_sql"
    if packed.is_dir():
        return packed
    with_checkout = package.joinpath("..", "sql")
    if with_checkout.is_dir():
        return with_checkout
    raise FileNotFoundError("chatd's SQL files are missing: install the package again")
