"""Facts about the database as a whole: its epoch, which changes when a backup is restored, and its lobby."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatd.store.acts import Scene
    from chatd.store.database import Database, Row, Transaction
    from chatd.store.queries import Queries


class Facts:
    """Names with values. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def get(self, name: str) -> str | None:
        row = await self._database.row(self._queries["schema.fact"], {"name": name})
        return None if row is None else row[0]

    async def put(self, name: str, value: str) -> None:
        """Set a fact that may change."""
        query = self._queries["schema.keep_fact"]
        await self._database.transaction(lambda tx: tx.run(query, {"name": name, "value": value}))

    async def prove(self, name: str, value: str) -> bool:
        """Set a fact and read it back in one transaction: whether the database keeps what it is given."""

        async def work(tx: Transaction) -> Row | None:
            await tx.run(self._queries["schema.keep_fact"], {"name": name, "value": value})
            return await tx.row(self._queries["schema.fact"], {"name": name})

        return await self._database.transaction(work) == (value,)

    @staticmethod
    async def prove_in(scene: Scene, name: str, value: str) -> bool:
        """`prove` as a part of a commit of the journal."""
        await scene.run("schema.keep_fact", name=name, value=value)
        return await scene.row("schema.fact", name=name) == (value,)

    async def get_or_add(self, name: str, value: str) -> str:
        """The value of a fact, which becomes `value` if there was none; two who do it at once get the same."""

        async def work(tx: Transaction) -> str:
            row = await tx.row(self._queries["schema.fact"], {"name": name})
            if row is None:
                await tx.run(self._queries["schema.add_fact"], {"name": name, "value": value})
                row = await tx.row(self._queries["schema.fact"], {"name": name})
            assert row is not None
            known: str = row[0]
            return known

        return await self._database.transaction(work)
