"""Access tokens: what is read is what was signed, and nothing else is read."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from chatd.config import Secret
from chatd.errors import ErrorCode, Refusal
from chatd.identity.tokens import MAX_TOKEN_CHARACTERS, Claims, Tokens, hash_refresh_token, new_refresh_token

NOW_MS = 1_700_000_000_123
SECRET, OTHER = Secret("s" * 32), Secret("o" * 32)
TOKENS = Tokens(SECRET, Secret(), access_s=900)


def refusal(token: str, *, tokens: Tokens = TOKENS, now_ms: int = NOW_MS) -> ErrorCode:
    with pytest.raises(Refusal) as caught:
        tokens.read(token, now_ms)
    return caught.value.code


def signed(**claims: Any) -> str:
    """A token of the right secret with these claims; `None` leaves one out."""
    good = {"sub": "user", "sid": "session", "iat": NOW_MS // 1000, "exp": NOW_MS // 1000 + 900}
    wanted = {name: value for name, value in (good | claims).items() if value is not None}
    # PyJWT checks some types when it signs; what is tested here is the reading
    part = base64.urlsafe_b64encode(json.dumps(wanted).encode()).rstrip(b"=")
    head = jwt.encode({}, SECRET.reveal(), algorithm="HS256").split(".")[0].encode()
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        head + b"." + part, SECRET.reveal().encode()
    )
    return b".".join((head, part, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def test_token_says_whose_it_is_and_when_it_expires() -> None:
    expires_at_ms = (NOW_MS // 1000 + 900) * 1000
    assert TOKENS.read(TOKENS.issue("user", "session", NOW_MS), NOW_MS) == Claims("user", "session", expires_at_ms)


def test_token_is_good_until_the_very_moment_of_its_expiry() -> None:
    token = TOKENS.issue("user", "session", NOW_MS)
    expires_at_ms = TOKENS.read(token, NOW_MS).expires_at_ms
    assert TOKENS.read(token, expires_at_ms - 1).user_id == "user"
    assert refusal(token, now_ms=expires_at_ms) == "token_expired"


def test_token_of_another_secret_is_refused() -> None:
    assert refusal(Tokens(OTHER, Secret(), access_s=900).issue("user", "session", NOW_MS)) == "unauthenticated"


def test_token_of_the_previous_secret_is_read_and_never_issued() -> None:
    rotated = Tokens(OTHER, SECRET, access_s=900)
    assert rotated.read(TOKENS.issue("user", "session", NOW_MS), NOW_MS).user_id == "user"
    assert refusal(rotated.issue("user", "session", NOW_MS)) == "unauthenticated"


def test_expired_token_of_the_previous_secret_has_expired() -> None:
    old = TOKENS.issue("user", "session", NOW_MS)
    assert refusal(old, tokens=Tokens(OTHER, SECRET, access_s=900), now_ms=NOW_MS + 901_000) == "token_expired"


def test_token_signed_with_no_algorithm_is_refused() -> None:
    claims = {"sub": "user", "sid": "session", "iat": NOW_MS // 1000, "exp": NOW_MS // 1000 + 900}
    assert refusal(jwt.encode(claims, "", algorithm="none")) == "unauthenticated"


def test_token_signed_with_another_algorithm_is_refused() -> None:
    claims = {"sub": "user", "sid": "session", "iat": NOW_MS // 1000, "exp": NOW_MS // 1000 + 900}
    assert refusal(jwt.encode(claims, SECRET.reveal() * 2, algorithm="HS512")) == "unauthenticated"


def test_helper_of_these_tests_signs_what_is_read() -> None:
    assert TOKENS.read(signed(), NOW_MS).session_id == "session"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": None},
        {"sid": None},
        {"iat": None},
        {"exp": None},
        {"sub": 7},
        {"sid": 7},
        {"exp": "never"},
        {"exp": 1e300},
        {"aud": "another service"},
    ],
    ids=str,
)
def test_token_without_the_claims_or_with_ill_typed_ones_is_refused(claims: dict[str, Any]) -> None:
    assert refusal(signed(**claims)) == "unauthenticated"


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "ä.ö.ü", "\ud800", "a" * 100_000, "Bearer x", "{}"])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token) == "unauthenticated"


def test_no_time_is_spent_on_a_token_longer_than_any_is() -> None:
    tail = "a" * MAX_TOKEN_CHARACTERS
    assert refusal(TOKENS.issue("user", "session", NOW_MS) + tail) == "unauthenticated"


def test_changing_any_part_of_a_token_breaks_it() -> None:
    token = TOKENS.issue("user", "session", NOW_MS)
    for index in (0, len(token) // 2, token.rindex(".") + 1):
        changed = "A" if token[index] != "A" else "B"
        assert refusal(token[:index] + changed + token[index + 1 :]) == "unauthenticated"


def test_refresh_tokens_are_256_random_bits_and_kept_as_their_hash() -> None:
    tokens = {new_refresh_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert len(base64.urlsafe_b64decode(token + "=")) == 32
        assert token not in hash_refresh_token(token)
    assert len({hash_refresh_token(token) for token in tokens}) == 100


def test_hash_of_a_refresh_token_is_always_the_same() -> None:
    assert hash_refresh_token("x") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
