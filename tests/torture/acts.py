"""Everything that a torture client does on a connection, each with how often it does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tests.torture.connection import READ_BYTES
from tests.torture.drafts import draft, words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.torture.client import Stay, TortureClient
    from tests.torture.drafts import Sent

#: Reading slowly: bytes at once, and seconds between; and for how long, as for reading nothing at all.
SLOW_BYTES: Final = 500
SLOW_REST_S: Final = 0.02
SLOW_S: Final = (1.0, 8.0)
HALT_S: Final = (1.0, 40.0)
#: Pages of history that one asks for who then reads nothing.
UNREAD_PAGES: Final = 60
#: How often who is not in a room comes back to it when it would like to do something there.
COME_BACK: Final = 0.3
#: To how many others one writes, how many rooms one makes, and with what messages are reacted to, more often than not.
PEERS: Final = 5
MADE_ROOMS: Final = 2
EMOJI: Final = ("👍", "❤️", "🏳️‍🌈", ":tea:")
ADDED: Final = 0.7


async def send(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Send a message."""
    await client.post(stay, client.add_pending(_new_draft(client, room_id)))


def _new_draft(client: TortureClient, room_id: str) -> Sent:
    client.sent += 1
    return draft(client.dice, f"{client.name}-{client.sent}", room_id, client.heard_ids.get(room_id, ()))


async def wander(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Leave a room in which nothing is waiting for an answer, and join it again or not."""
    if any(sent.room_id == room_id for sent in client.pending.values()):
        return
    await client.ask(stay, "leave_room", roomId=room_id)
    if client.dice.random() >= client.habits.stay_away:
        await client.join(stay, room_id)


async def join_again(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Join a room that one is in."""
    await client.join(stay, room_id)


async def look_back(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Ask for a page of history, in one of its forms."""
    seq, limit = client.dice.randint(0, stay.positions[room_id] + 1), client.dice.choice((1, 10, 50, 100))
    form = client.dice.choice(({}, {"limit": limit}, {"beforeSeq": seq}, {"afterSeq": seq, "limit": limit}))
    await client.ask(stay, "get_history", roomId=room_id, **form)


async def ping(client: TortureClient, stay: Stay, _: str) -> None:
    """Ask for a sign of life."""
    await client.ask(stay, "ping")


async def renew(client: TortureClient, stay: Stay, _: str) -> None:
    """Get a fresh token and show it on the live connection."""
    if await client.web.renew():
        await client.show_token(stay)


async def sign_in_anew(client: TortureClient, stay: Stay, _: str) -> None:
    """Begin another sign-in and end the former one, with the connection on either of them."""
    former = client.web.token
    if await client.web.sign_in():
        if client.dice.random() < 0.5:
            await client.show_token(stay)
        await client.web.log_out(former)
        stay.excuse()


async def post_by_http(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Send a message by HTTP; by the WebSocket, too, where nothing is known of it, and now and then where it is."""
    sent = _new_draft(client, room_id)
    if not await client.web.post(sent) or client.dice.random() < 0.2:
        await client.post(stay, client.add_pending(sent))
    stay.excuse()


async def read_by_http(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Read a page of history by HTTP, in one of its forms."""
    seq, limit = client.dice.randint(1, stay.positions[room_id] + 1), client.dice.choice((1, 20, 100))
    forms = [f"limit={limit}", f"limit={limit}&beforeSeq={seq}", f"limit={limit}&afterSeq={seq}"]
    if heard := client.heard_ids.get(room_id):
        forms.append(f"limit={limit}&lastMessageId={client.dice.choice(heard)}")
    await client.web.read(room_id, client.dice.choice(forms))
    stay.excuse()


async def whisper(client: TortureClient, stay: Stay, _: str) -> None:
    """Send a direct message, to few others, so that conversations come of it."""
    if not client.peers:
        return
    client.sent += 1
    peer = client.peers[client.dice.randrange(min(PEERS, len(client.peers)))]
    key = f"{client.name}-{client.sent}"
    await client.post(stay, client.add_pending(draft(client.dice, key, "", (), recipient_id=peer)))


async def edit(client: TortureClient, stay: Stay, _: str) -> None:
    """Give one of one's messages other words."""
    if client.own_ids:
        content = words(client.dice, f"{client.name} has changed its mind")
        await client.ask(stay, "edit_message", messageId=client.dice.choice(client.own_ids), content=content)


async def delete(client: TortureClient, stay: Stay, _: str) -> None:
    """Delete one of one's messages, now and then twice."""
    if client.own_ids:
        await client.ask(stay, "delete_message", messageId=client.dice.choice(client.own_ids))


async def react(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Put an emoji to a message, or take it back."""
    if heard := client.heard_ids.get(room_id):
        kind = "add_reaction" if client.dice.random() < ADDED else "remove_reaction"
        await client.ask(stay, kind, messageId=client.dice.choice(heard), emoji=client.dice.choice(EMOJI))


async def pin(client: TortureClient, stay: Stay, _: str) -> None:
    """Pin a message in a room of one's own, or unpin it."""
    heard = [message_id for room_id in client.made for message_id in client.heard_ids.get(room_id, ())]
    if heard:
        kind = "pin_message" if client.dice.random() < ADDED else "unpin_message"
        await client.ask(stay, kind, messageId=client.dice.choice(heard))


async def mark(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Say how far one has read, in a room or in a conversation."""
    room_id = client.dice.choice([room_id, *(client.direct & stay.positions.keys())])
    form = client.dice.choice(({}, {"seq": client.dice.randint(0, stay.positions[room_id] + 1)}))
    await client.ask(stay, "mark_as_read", roomId=room_id, **form)


async def begin_typing(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Type, and stop again or not."""
    await client.ask(stay, "typing_start", roomId=room_id)
    if client.dice.random() < 0.5:
        await client.ask(stay, "typing_stop", roomId=room_id)


async def say_status(client: TortureClient, stay: Stay, _: str) -> None:
    """Say how one is."""
    status = client.dice.choice(("online", "away", "busy"))
    await client.ask(stay, "update_status", status=status, statusMessage=f"at {client.seconds():.1f} s")


async def make_room(client: TortureClient, stay: Stay, _: str) -> None:
    """Make a room with some others, in which one has a say."""
    if len(client.made) < MADE_ROOMS and client.peers:
        members = client.dice.sample(client.peers, min(len(client.peers), client.dice.randint(1, 4)))
        room_id = await client.web.make_room(f"of {client.name}", members)
        if room_id is not None:
            client.made[room_id] = members
        stay.excuse()


async def moderate(client: TortureClient, stay: Stay, _: str) -> None:
    """Kick somebody, add them again, mute them for a moment, or give them another role."""
    if not client.made:
        return
    room_id = client.dice.choice(list(client.made))
    user_id = client.dice.choice(client.made[room_id])
    until = datetime.now(UTC) + timedelta(seconds=client.dice.uniform(0.5, 3))
    form = client.dice.choice((
        ("DELETE", user_id, None),
        ("POST", "", {"userId": user_id}),
        ("PATCH", user_id, {"mutedUntil": until.isoformat(timespec="milliseconds")}),
        ("PATCH", user_id, {"role": client.dice.choice(("readonly", "member", "moderator"))}),
    ))  # fmt: skip
    method, whom, body = form
    await client.web.moderate(method, room_id, whom, body)
    stay.excuse()


async def look_around(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Read one of the lists that are made for a user."""
    paths = [
        "/api/chats", "/api/notifications", "/api/direct-messages/unread", f"/api/search?q={client.name}",
        f"/api/rooms/{room_id}/members", f"/api/rooms/{room_id}/pins",
    ]  # fmt: skip
    if heard := client.heard_ids.get(room_id):
        paths += [f"/api/messages/{client.dice.choice(heard)}/{what}" for what in ("receipts", "thread")]
    await client.web.look(client.dice.choice(paths))
    stay.excuse()


async def dawdle(client: TortureClient, stay: Stay, _: str) -> None:
    """Read slowly for a while."""
    stay.was_slow = True
    stay.connection.read_bytes, stay.connection.rest_s = SLOW_BYTES, SLOW_REST_S
    await client.rest(client.dice.uniform(*SLOW_S))
    stay.connection.read_bytes, stay.connection.rest_s = READ_BYTES, 0
    stay.excuse()


async def halt(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Ask for more than the kernel keeps, and stop reading for a while, or until one is not waited for any more."""
    stay.was_slow = True
    stay.connection.halt()
    for _ in range(UNREAD_PAGES):
        await client.ask_for_nothing(stay, "get_history", roomId=room_id, limit=100)
    await client.rest(client.dice.uniform(*HALT_S))
    stay.connection.flowing.set()
    stay.excuse()


#: Every act by its name, with how often it comes beside the others.
ACTS: Final[Mapping[str, tuple[Callable[[TortureClient, Stay, str], Awaitable[None]], float]]] = {
    "send": (send, 200),
    "wander": (wander, 10),
    "join again": (join_again, 2),
    "look back": (look_back, 5),
    "ping": (ping, 3),
    "renew": (renew, 1),
    "sign in anew": (sign_in_anew, 0.7),
    "post by HTTP": (post_by_http, 5),
    "read by HTTP": (read_by_http, 4),
    "dawdle": (dawdle, 1),
    "halt": (halt, 0.4),
    "whisper": (whisper, 10),
    "edit": (edit, 8),
    "delete": (delete, 4),
    "react": (react, 8),
    "pin": (pin, 3),
    "mark": (mark, 6),
    "type": (begin_typing, 4),
    "say status": (say_status, 2),
    "make room": (make_room, 1.5),
    "moderate": (moderate, 4),
    "look around": (look_around, 3),
}
NAMES: Final = list(ACTS)
WEIGHTS: Final = [weight for _, weight in ACTS.values()]


async def act(client: TortureClient, stay: Stay) -> None:
    """Do something in one of the client's rooms, or come back to it."""
    room_id = client.dice.choice(client.rooms)
    if room_id in stay.replaying:
        return
    if room_id not in stay.positions:
        if client.dice.random() < COME_BACK:
            await client.come_back(stay, room_id)
        return
    [name] = client.dice.choices(NAMES, WEIGHTS)
    client.acts[name] += 1
    await ACTS[name][0](client, stay, room_id)
