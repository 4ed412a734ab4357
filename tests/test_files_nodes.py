"""Files on several nodes: sent to one, seen from any, with one quota, and a signed link that all of them know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.pictures import jpeg, upload, uploaded
from tests.test_cluster import open_nodes

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_file_of_one_node_is_seen_from_another(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2, UPLOADS_DIR=str(tmp_path / "shared")) as (one, other):
        anna, ben = await one.register("anna"), await one.register("ben")
        room = await one.create_room(anna, kind="private", members=[ben.id])
        file = await uploaded(one, anna, jpeg(), "photo.jpg")
        async with other.connect(ben) as reader:
            body = {"content": "look", "messageType": "image", "fileId": file["id"]}
            assert (await other.http("POST", f"/api/rooms/{room}/messages", body, token=anna.token)).status == 201
            attachment = (await reader.heard("new_message"))["message"]["attachment"]
        for url in (attachment["url"], attachment["thumbnailUrl"]):
            assert (await other.http("GET", url, token=ben.token)).status == 200
        link = (await one.http("POST", f"{file['url']}/link", token=ben.token)).json()["url"]
        assert (await other.http("GET", link)).status == 200
        assert (await one.http("DELETE", f"/api/rooms/{room}/members/{ben.id}", token=anna.token)).status == 200
        assert (await other.http("GET", file["url"], token=ben.token)).status == 404


async def test_a_quota_and_uploads_an_hour_hold_over_all_nodes(tmp_path: Path) -> None:
    shared = {"UPLOADS_DIR": str(tmp_path / "shared"), "UPLOADS_QUOTA_BYTES": "1000", "LIMITS_UPLOADS_PER_HOUR": "3"}
    async with open_nodes(tmp_path, 2, limits=False, **shared) as nodes:
        anna = await nodes[0].register("anna")
        statuses = []

        async def send(n: int) -> None:
            statuses.append((await upload(nodes[n % 2], anna, b"%d" % n * 600, "notes.txt")).status)

        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(send, n)
        assert sorted(statuses) == [201, 409, 409, 429]


async def test_the_same_content_sent_to_both_nodes_at_once_is_kept_once(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2, UPLOADS_DIR=str(tmp_path / "shared")) as nodes:
        users = [await nodes[0].register(f"user{n}") for n in range(4)]
        async with trio.open_nursery() as nursery:
            for n, user in enumerate(users):
                nursery.start_soon(uploaded, nodes[n % 2], user, b"same" * 50_000)
        kept = [path for path in (tmp_path / "shared" / "blobs").rglob("*") if path.is_file()]
        assert len(kept) == 1
        for user in users:
            [file] = (await nodes[1].http("GET", "/api/upload", token=user.token)).json()["files"]
            assert (await nodes[1].http("GET", file["url"], token=user.token)).body == b"same" * 50_000
