"""Access tokens."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kernel.clock import ManualClock
from kernel.reasons import Reason, Refused
from mesh.identity import Caller
from mesh.tokens import TokenSigner, TokenVerifier, decode_key, encode_key

NOW_NS = 1_700_000_000 * 10**9


class Auth:
    """Signing keys that can be rotated, and a count of how often they were asked for."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW_NS)
        self.fetches = 0
        self.reachable = True
        self.signers: list[TokenSigner] = []
        self.rotate("k1")

    def rotate(self, kid: str) -> None:
        self.private_key = Ed25519PrivateKey.generate()
        self.signers.append(TokenSigner(self.private_key, kid, clock=self.clock))

    async def keys(self) -> dict[str, bytes]:
        self.fetches += 1
        if not self.reachable:
            raise ConnectionError("no route")
        return {signer.kid: signer.public_key for signer in self.signers}

    def verifier(self) -> TokenVerifier:
        return TokenVerifier(self.keys, clock=self.clock)

    def token(self, **changes: Any) -> str:
        claims: dict[str, Any] = {
            "user_id": "u",
            "account_id": 3,
            "session_id": "s",
            "scopes": ["read", "trade"],
            "ttl_seconds": 60,
        }
        return self.signers[-1].sign(**claims | changes)

    def forged(self, **changes: Any) -> str:
        """Signed with the right key, but with claims no signer of ours would write."""
        now = NOW_NS // 10**9
        claims = {"iss": "tidebook", "sub": "u", "acc": 3, "sid": "s", "scp": ["read"]}
        claims |= {"aud": "tidebook-api", "iat": now, "exp": now + 60} | changes
        headers = {"kid": self.signers[-1].kid, "typ": changes.pop("typ", "at+jwt")}
        return jwt.encode(claims, self.private_key, algorithm="EdDSA", headers=headers)


async def refused(verifier: TokenVerifier, token: str) -> Reason:
    with pytest.raises(Refused) as caught:
        await verifier.verify(token)
    return caught.value.reason


async def test_a_good_token_stands_for_its_caller() -> None:
    auth = Auth()
    assert await auth.verifier().verify(auth.token()) == Caller(
        account_id=3, user_id="u", session_id="s", scopes=frozenset({"read", "trade"})
    )


async def test_a_token_ends_at_its_expiry_known_or_not() -> None:
    auth = Auth()
    known = auth.verifier()
    token = auth.token()
    await known.verify(token)
    auth.clock.advance(60 * 10**9 - 1)
    await known.verify(token)
    auth.clock.advance(1)
    assert await refused(known, token) is Reason.TOKEN_EXPIRED
    assert await refused(auth.verifier(), token) is Reason.TOKEN_EXPIRED


async def test_without_waiting_only_a_token_that_was_verified_before_has_a_caller() -> None:
    auth = Auth()
    verifier, token = auth.verifier(), auth.token()
    assert verifier.verified(token) is None
    caller = await verifier.verify(token)
    assert verifier.verified(token) == caller
    assert verifier.verified(auth.token(session_id="another")) is None
    auth.clock.advance(60 * 10**9)
    with pytest.raises(Refused) as caught:
        verifier.verified(token)
    assert caught.value.reason is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody else"},
        {"aud": "something-else"},
        {"aud": None},
        {"typ": "JWT"},
        {"acc": 0},
        {"acc": "nobody"},
        {"scp": None},
        {"iat": NOW_NS // 10**9 + 3600},
        {"exp": None},
    ],
    ids=lambda changes: ",".join(changes),
)
async def test_a_token_with_wrong_claims_is_invalid(changes: dict[str, Any]) -> None:
    auth = Auth()
    assert await refused(auth.verifier(), auth.forged(**changes)) is Reason.TOKEN_INVALID


async def test_only_the_claims_decide_that_a_forged_token_is_bad() -> None:
    """Else the cases above would show nothing."""
    auth = Auth()
    assert (await auth.verifier().verify(auth.forged())).account_id == 3


async def test_scopes_nobody_knows_are_left_out() -> None:
    auth = Auth()
    caller = await auth.verifier().verify(auth.forged(scp=["read", "root"]))
    assert caller.scopes == {"read"}


async def test_another_algorithm_is_not_accepted() -> None:
    auth = Auth()
    headers = {"kid": "k1", "typ": "at+jwt"}
    # The classic confusion: the public key used as the secret of a symmetric signature.
    symmetric = jwt.encode(
        {"iss": "tidebook"}, auth.signers[0].public_key, algorithm="HS256", headers=headers
    )
    unsigned = jwt.encode({"iss": "tidebook"}, "", algorithm="none", headers=headers)
    assert await refused(auth.verifier(), symmetric) is Reason.TOKEN_INVALID
    assert await refused(auth.verifier(), unsigned) is Reason.TOKEN_INVALID
    assert await refused(auth.verifier(), "not.a.token") is Reason.TOKEN_INVALID


async def test_a_changed_token_is_invalid() -> None:
    auth = Auth()
    header, _, signature = auth.token().split(".")
    other_body = auth.token(account_id=4).split(".")[1]
    tampered = f"{header}.{other_body}.{signature}"
    assert await refused(auth.verifier(), tampered) is Reason.TOKEN_INVALID


async def test_a_rotated_key_is_fetched_when_it_is_first_seen() -> None:
    auth = Auth()
    verifier = auth.verifier()
    old = auth.token()
    await verifier.verify(old)
    auth.rotate("k2")
    auth.clock.advance(10 * 10**9)
    await verifier.verify(auth.token())
    await verifier.verify(old)
    assert auth.fetches == 2


async def test_made_up_key_ids_do_not_flood_auth() -> None:
    auth = Auth()
    verifier = auth.verifier()
    stranger = Auth()
    for number in range(20):
        stranger.rotate(f"made-up-{number}")
        assert await refused(verifier, stranger.token()) is Reason.TOKEN_INVALID
    assert auth.fetches == 1


async def test_without_keys_the_answer_is_try_again_and_it_recovers() -> None:
    auth = Auth()
    verifier = auth.verifier()
    auth.reachable = False
    assert await refused(verifier, auth.token()) is Reason.UNAVAILABLE
    assert await refused(verifier, auth.token()) is Reason.UNAVAILABLE
    assert auth.fetches == 1, "the second caller does not wait for another failure"
    auth.reachable = True
    auth.clock.advance(10**9)
    await verifier.verify(auth.token())


def test_a_key_survives_its_json_form() -> None:
    raw = bytes(range(32))
    assert decode_key(encode_key(raw)) == raw
    assert "=" not in encode_key(raw)
