"""Named queries from `sql/queries`: one file a feature, `-- name: …` above each query.

A query is used as `QUERIES["rooms.by_id"]` would suggest: the file's name, a dot, the query's name. Where the text
must differ between databases, `rooms.postgres.sql` or `rooms.sqlite.sql` beside the shared file overrides single names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chatd.store.sqlfiles import sql_root

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"^-- name: (?P<name>\w+)\s*$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):(?P<name>[a-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with named parameters (`:name`)."""

    name: str
    text: str = field(repr=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of their first appearance."""
        return tuple(dict.fromkeys(found["name"] for found in _PARAMETER.finditer(self.text)))


class Queries:
    """Every query of one dialect, by `feature.name`."""

    def __init__(self, dialect: str) -> None:
        self._queries: dict[str, Query] = {}
        shared, overriding = [], []
        for file in (sql_root() / "queries").iterdir():
            feature, *middle, ending = file.name.split(".")
            if ending == "sql" and not middle:
                shared.append((feature, file.read_text("utf-8")))
            elif ending == "sql" and middle == [dialect]:
                overriding.append((feature, file.read_text("utf-8")))
        for feature, text in (*shared, *overriding):
            for query in parse(feature, text):
                self._queries[query.name] = query

    def __getitem__(self, name: str) -> Query:
        return self._queries[name]

    def find(self, name: str) -> Query | None:
        """The query, where this dialect has it."""
        return self._queries.get(name)

    def __iter__(self) -> Iterator[str]:
        """The names, sorted."""
        return iter(sorted(self._queries))


def parse(feature: str, text: str) -> list[Query]:
    """The queries of one file. Raises ValueError for a name that appears twice."""
    found = list(_NAME.finditer(text))
    queries = []
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        body = "\n".join(line for line in text[match.end() : end].splitlines() if not line.lstrip().startswith("--"))
        queries.append(Query(f"{feature}.{match['name']}", body.strip().rstrip(";")))
    if len({query.name for query in queries}) < len(queries):
        raise ValueError(f"sql/queries/{feature}: a name appears twice")
    return queries
