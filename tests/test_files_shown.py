"""Files that messages and profiles show: who may show them, who may see them, and what becomes of them afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon
from tests.pictures import jpeg, uploaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path, back_ends: str) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as opened:
        yield opened


async def status(daemon: Daemon, user: SignedIn, url: str) -> int:
    return (await daemon.http("GET", url, token=user.token)).status


async def join(daemon: Daemon, owner: SignedIn, room: str, user: SignedIn) -> None:
    answer = await daemon.http("POST", f"/api/rooms/{room}/members", {"userId": user.id}, token=owner.token)
    assert answer.status in (200, 201), answer.body


async def post(daemon: Daemon, user: SignedIn, room: str, file: Any, *, kind: str = "file", **fields: str) -> Any:
    body = {"content": "look", "messageType": kind, "fileId": file["id"], **fields}
    return await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=user.token)


async def test_a_message_shows_a_photograph_live_in_history_and_to_who_comes_back(daemon: Daemon) -> None:
    anna, ben = await daemon.register("anna"), await daemon.register("ben")
    room = await daemon.create_room(anna, kind="private", members=[ben.id])
    file = await uploaded(daemon, anna, jpeg(), "photo.jpg")
    async with daemon.connect(ben) as reader, daemon.connect(anna) as sender:
        await sender.ask(type="send_message", roomId=room, content="look", messageType="image", fileId=file["id"])
        message = (await reader.heard("new_message"))["message"]
        assert message["attachment"] == {
            "fileId": file["id"], "url": file["url"], "thumbnailUrl": file["thumbnailUrl"], "mimeType": "image/jpeg",
            "size": file["size"], "width": 40, "height": 30, "name": "photo.jpg",
        }  # fmt: skip
        history = await daemon.http("GET", f"/api/rooms/{room}/messages", token=ben.token)
        assert history.json()["messages"] == [message]
        epoch = reader.inbox[0]["epoch"]
        async with daemon.connect() as back:
            resume = {"epoch": epoch, "rooms": {room: message["seq"] - 1}}
            await back.send(type="authenticate", token=ben.token, resume=resume)
            assert (await back.wait_for("new_message"))["message"] == message
        assert await status(daemon, ben, message["attachment"]["url"]) == 200
        assert await status(daemon, ben, message["attachment"]["thumbnailUrl"]) == 200


async def test_over_http_and_in_direct_messages_files_are_shown_too(daemon: Daemon) -> None:
    anna, ben, eve = [await daemon.register(name) for name in ("anna", "ben", "eve")]
    file = await uploaded(daemon, anna)
    async with daemon.connect(ben) as reader, daemon.connect(anna) as sender:
        await sender.ask(type="send_dm", recipientId=ben.id, content="look", messageType="file", fileId=file["id"])
        heard = await reader.heard("new_dm")
        assert heard["message"]["attachment"]["fileId"] == file["id"]
    assert [await status(daemon, user, file["url"]) for user in (anna, ben, eve)] == [200, 200, 404]
    room = await daemon.create_room(anna, members=[eve.id])
    answer = await post(daemon, anna, room, file)
    assert (answer.status, answer.json()["attachment"]["name"]) == (201, "notes.txt")
    assert await status(daemon, eve, file["url"]) == 200


async def test_a_stranger_and_a_former_member_get_nothing_of_a_private_room(daemon: Daemon) -> None:
    anna, ben, eve = [await daemon.register(name) for name in ("anna", "ben", "eve")]
    room = await daemon.create_room(anna, kind="private", members=[ben.id])
    file = await uploaded(daemon, anna, jpeg(), "photo.jpg")
    assert await status(daemon, ben, file["url"]) == 404
    await post(daemon, anna, room, file, kind="image")
    for url in (file["url"], file["thumbnailUrl"]):
        assert [await status(daemon, user, url) for user in (anna, ben, eve)] == [200, 200, 404]
    assert (await daemon.http("DELETE", f"/api/rooms/{room}/members/{ben.id}", token=anna.token)).status == 200
    assert [await status(daemon, user, file["url"]) for user in (anna, ben, eve)] == [200, 404, 404]


async def test_only_ones_own_files_can_be_shown(daemon: Daemon) -> None:
    anna, ben = await daemon.register("anna"), await daemon.register("ben")
    room = await daemon.create_room(anna, members=[ben.id])
    file = await uploaded(daemon, anna)
    answer = await post(daemon, ben, room, file)
    assert (answer.status, answer.json()["code"]) == (404, "not_found")
    assert (await post(daemon, anna, room, {"id": "none"})).status == 404


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messageType": "image"}, "fileId"),
        ({"messageType": "file"}, "fileId"),
        ({"messageType": "text", "fileId": "FILE"}, "messageType"),
        ({"messageType": "image", "fileId": "FILE"}, "no image"),
    ],
)
async def test_a_message_and_its_file_have_to_fit(daemon: Daemon, fields: dict[str, str], sentence: str) -> None:
    anna = await daemon.register("anna")
    room, file = await daemon.create_room(anna), await uploaded(daemon, anna)
    body = {"content": "look"} | {name: file["id"] if value == "FILE" else value for name, value in fields.items()}
    answer = await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=anna.token)
    assert (answer.status, answer.json()["code"]) == (422, "bad_message")
    assert sentence in answer.json()["detail"]


async def test_the_same_message_sent_twice_is_stored_once_and_another_file_is_another_message(daemon: Daemon) -> None:
    anna = await daemon.register("anna")
    room = await daemon.create_room(anna)
    file, other = await uploaded(daemon, anna), await uploaded(daemon, anna)
    first = await post(daemon, anna, room, file, clientMessageId="one")
    again = await post(daemon, anna, room, file, clientMessageId="one")
    assert (first.status, again.status, again.json()) == (201, 200, first.json())
    mixed = await post(daemon, anna, room, other, clientMessageId="one")
    assert (mixed.status, mixed.json()["code"]) == (409, "idempotency_mismatch")


async def test_a_file_that_is_shown_is_not_removed_until_its_message_is_deleted(daemon: Daemon) -> None:
    anna, ben = await daemon.register("anna"), await daemon.register("ben")
    room = await daemon.create_room(anna, members=[ben.id])
    file = await uploaded(daemon, anna)
    message = (await post(daemon, anna, room, file)).json()
    answer = await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)
    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    async with daemon.connect(anna) as client:
        await client.ask(type="delete_message", messageId=message["id"])
    assert [await status(daemon, user, file["url"]) for user in (anna, ben)] == [200, 404]
    [tombstone] = (await daemon.http("GET", f"/api/rooms/{room}/messages", token=ben.token)).json()["messages"]
    assert "attachment" not in tombstone
    # It may be about to be shown again, until a while after it was held.
    assert (await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)).status == 409
    daemon.rows("UPDATE file_uploads SET held_until = 0")
    assert (await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)).status == 200


async def test_a_deleted_message_sent_again_is_the_first_one_still_though_its_file_is_gone(daemon: Daemon) -> None:
    anna = await daemon.register("anna")
    room, file = await daemon.create_room(anna), await uploaded(daemon, anna)
    message = (await post(daemon, anna, room, file, clientMessageId="one")).json()
    async with daemon.connect(anna) as client:
        await client.ask(type="delete_message", messageId=message["id"])
        daemon.rows("UPDATE file_uploads SET held_until = 0")
        await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)
        ack = await client.ask(
            type="send_message", roomId=room, content="look", messageType="file", fileId=file["id"],
            clientMessageId="one",
        )  # fmt: skip
        assert (ack["messageId"], ack["duplicate"]) == (message["id"], True)


async def link_of(daemon: Daemon, user: SignedIn, url: str) -> str:
    answer = await daemon.http("POST", f"{url}/link", token=user.token)
    assert answer.status == 201, answer.body
    link: str = answer.json()["url"]
    return link


async def test_a_link_ends_when_its_maker_sees_the_file_in_nothing_any_more(daemon: Daemon) -> None:
    anna, ben = await daemon.register("anna"), await daemon.register("ben")
    room = await daemon.create_room(anna, members=[ben.id])
    file = await uploaded(daemon, anna, jpeg(), "photo.jpg")
    early = await link_of(daemon, anna, file["url"])
    message = (await post(daemon, anna, room, file, kind="image")).json()
    links = [early] + [await link_of(daemon, user, file["thumbnailUrl"]) for user in (anna, ben)]

    async def statuses() -> list[int]:
        return [(await daemon.http("GET", link)).status for link in links]

    assert await statuses() == [200, 200, 200]
    assert (await daemon.http("GET", links[0].replace(anna.id, ben.id))).status == 403
    assert (await daemon.http("DELETE", f"/api/rooms/{room}/members/{ben.id}", token=anna.token)).status == 200
    assert await statuses() == [200, 200, 404]
    async with daemon.connect(anna) as client:
        await client.ask(type="delete_message", messageId=message["id"])
    assert await statuses() == [404, 404, 404]
    assert await status(daemon, anna, file["url"]) == 200
    answer = await daemon.http("POST", f"{file['url']}/link", token=anna.token)
    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    await post(daemon, anna, room, file)
    assert await statuses() == [200, 200, 404]


async def test_links_of_a_disabled_user_end(daemon: Daemon) -> None:
    anna = await daemon.register("anna")
    link = await link_of(daemon, anna, (await uploaded(daemon, anna))["url"])
    assert (await daemon.http("GET", link)).status == 200
    daemon.rows(f"UPDATE users SET disabled_at = 1 WHERE id = '{anna.id}'")
    assert (await daemon.http("GET", link)).status == 404


async def test_an_avatar_is_for_everybody_and_only_ones_own_image(daemon: Daemon) -> None:
    anna, ben = await daemon.register("anna"), await daemon.register("ben")
    face, notes = await uploaded(daemon, anna, jpeg(), "me.jpg"), await uploaded(daemon, anna)
    assert await status(daemon, ben, face["url"]) == 404
    for user, file, code in ((ben, face, 404), (anna, notes, 422)):
        change = {"avatarFileId": file["id"]}
        assert (await daemon.http("PATCH", "/api/users/me", change, token=user.token)).status == code
    answer = await daemon.http("PATCH", "/api/users/me", {"avatarFileId": face["id"]}, token=anna.token)
    assert answer.json()["avatarFileId"] == face["id"]
    assert await status(daemon, ben, face["url"]) == 200
    assert (await daemon.http("DELETE", f"/api/upload/{face['id']}", token=anna.token)).status == 409
    gone = await daemon.http("PATCH", "/api/users/me", {"avatarFileId": ""}, token=anna.token)
    assert "avatarFileId" not in gone.json()
    assert await status(daemon, ben, face["url"]) == 404


async def test_messages_with_files_can_be_switched_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_UPLOADS="false") as daemon:
        anna = await daemon.register("anna")
        room = await daemon.create_room(anna)
        answer = await post(daemon, anna, room, {"id": "x"})
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")
