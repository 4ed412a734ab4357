"""The shortest way through everything: register, authenticate, join, send, receive, and find it again."""

from pathlib import Path

from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon

pytestmark = ON_BOTH_BACK_ENDS


async def test_a_message_reaches_the_other_member_and_stays_in_the_history(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        lobby = await daemon.lobby(ada)
        async with daemon.connect(ada) as ada_client, daemon.connect(bob) as bob_client:
            assert (await ada_client.ask(type="join_room", roomId=lobby))["type"] == "room_history"
            assert (await bob_client.ask(type="join_room", roomId=lobby))["messages"] == []
            ack = await ada_client.ask(type="send_message", roomId=lobby, content="hello")
            heard = await bob_client.wait_for("new_message")
            assert heard["message"]["id"] == ack["messageId"]
            assert heard["message"]["senderId"] == ada.id
    async with open_daemon(tmp_path) as daemon:
        found = await daemon.http("GET", f"/api/rooms/{lobby}/messages", token=bob.token)
        assert [message["content"] for message in found.json()["messages"]] == ["hello"]
