"""Everything that a torture client does on a connection, each with how often it does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.torture.connection import READ_BYTES
from tests.torture.drafts import draft

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


async def dawdle(client: TortureClient, stay: Stay, _: str) -> None:
    """Read slowly for a while."""
    stay.connection.read_bytes, stay.connection.rest_s = SLOW_BYTES, SLOW_REST_S
    await client.rest(client.dice.uniform(*SLOW_S))
    stay.connection.read_bytes, stay.connection.rest_s = READ_BYTES, 0
    stay.excuse()


async def halt(client: TortureClient, stay: Stay, room_id: str) -> None:
    """Ask for more than the kernel keeps, and stop reading for a while, or until one is not waited for any more."""
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
