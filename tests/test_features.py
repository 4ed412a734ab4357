"""Each switch of `[server.features]`, at both doors: off it answers `feature_disabled`, on again it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest

from chatd.chat.dispatch import RULES
from chatd.chat.features import _SENTENCES, Feature
from chatd.chat.routes import ROUTES
from chatd.config import Features
from chatd.ids import new_id
from chatd.protocol import wire_name
from tests.daemon import open_daemon
from tests.test_reload import open_reloadable

if TYPE_CHECKING:
    from pathlib import Path

SWITCHES = Features.__struct_fields__
VALUES = {"emoji": "👍", "content": "hello", "status": "away"}
#: Ways into the daemon that a switch closes.
MESSAGES = [(rule.feature, message) for message, rule in RULES.items() if rule.feature is not None]
PATHS = [(route.feature, route) for route in ROUTES if route.feature is not None]


def request(message: type) -> dict[str, Any]:
    """A message of a type, with what it has to have."""
    required = [field.encode_name for field in msgspec.structs.fields(message) if field.required]
    return {"type": wire_name(message.__name__)} | {name: VALUES.get(name, new_id()) for name in required}


def test_every_switch_is_known_to_the_tables_and_has_its_sentence() -> None:
    assert set(get_args(Feature)) == set(SWITCHES) == set(_SENTENCES)
    assert all(" " in sentence and sentence.endswith(".") for sentence in _SENTENCES.values())
    assert {feature for feature, _ in (*MESSAGES, *PATHS)} <= set(SWITCHES)


@pytest.mark.parametrize(("feature", "message"), MESSAGES, ids=lambda value: getattr(value, "__name__", value))
async def test_message_whose_feature_is_off_is_refused(tmp_path: Path, feature: Feature, message: type) -> None:
    off = {f"SERVER_FEATURES_{feature.upper()}": "false"}
    async with open_daemon(tmp_path, limits=False, **off) as daemon:
        async with daemon.connect() as stranger:
            assert (await stranger.ask(**request(message)))["code"] == "unauthenticated"
        async with daemon.connect(await daemon.register("ada")) as client:
            refused = await client.ask(**request(message))
            assert (refused["code"], refused["message"]) == ("feature_disabled", _SENTENCES[feature])


@pytest.mark.parametrize("feature", sorted({feature for feature, _ in PATHS}))
async def test_path_whose_feature_is_off_is_refused_and_on_again_it_is_not(tmp_path: Path, feature: Feature) -> None:
    routes = [route for name, route in PATHS if name == feature]

    async def codes(token: str) -> list[str | None]:
        found = []
        for route in routes:
            path = "/".join(new_id() if part.startswith(":") else part for part in route.path.split("/"))
            body: object = None if route.method in {"GET", "DELETE"} else {}
            answer = await live.daemon.http(route.method, path, body, token=token)
            found.append(answer.json().get("code") if answer.body else None)
        return found

    async with open_reloadable(tmp_path) as live:
        ada = await live.daemon.register("ada")
        assert "feature_disabled" not in await codes(ada.token)
        await live.reload(f"[server.features]\n{feature} = false\n")
        assert await codes(ada.token) == ["feature_disabled"] * len(routes)
        await live.reload("")
        assert "feature_disabled" not in await codes(ada.token)


async def test_switch_that_turns_while_somebody_is_connected_holds_for_the_next_message(tmp_path: Path) -> None:
    async with open_reloadable(tmp_path) as live:
        ada = await live.daemon.register("ada")
        async with live.daemon.connect(ada) as client:
            assert (await client.ask(type="update_status", status="away"))["type"] == "ok"
            await live.reload("[server.features]\npresence = false\n")
            assert (await client.ask(type="update_status", status="busy"))["code"] == "feature_disabled"
            await live.reload("")
            assert (await client.ask(type="update_status", status="busy"))["type"] == "ok"
