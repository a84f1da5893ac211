"""`tidebook sessions end`: what it ends, what it leaves, and what it says."""

from __future__ import annotations

import pytest
from tidebook.auth.v1 import auth_pb2 as pb
from typer.testing import CliRunner

from kernel.reasons import Reason
from ops import cli, sessions
from ops.errors import OpsError
from ops.sessions import Whose
from tests.auth.conftest import Auth, Person, bearer, refused
from tests.support import eventually


async def key_of(auth: Auth, person: Person) -> pb.CreateApiKeyResponse:
    return await auth.stub.CreateApiKey(
        pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ]), metadata=person.bearer
    )


async def exchange_key(auth: Auth, key: pb.CreateApiKeyResponse) -> str:
    answer = await auth.stub.ExchangeApiKey(
        pb.ExchangeApiKeyRequest(api_key_id=key.api_key.api_key_id, secret=key.secret)
    )
    return answer.access_token


async def is_over(auth: Auth, token: str) -> None:
    async def refusal() -> None:
        with refused(Reason.SESSION_REVOKED):
            await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(token))

    await eventually(refusal)


async def test_the_sessions_of_one_user_end_and_the_keys_if_asked(
    auth: Auth, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    phone = (await auth.sign_in(ann)).tokens
    key = await key_of(auth, ann)
    bot = await exchange_key(auth, key)

    assert await sessions.end(auth.settings, Whose(email=ann.email.upper()), api_keys=False) == 0
    account = f"account {ann.user.account_id} ({ann.email})"
    assert f"{account}: ended 2 sessions" in capsys.readouterr().out.splitlines()
    for tokens in (ann.tokens, phone):
        await is_over(auth, tokens.access_token)
        with refused(Reason.SESSION_REVOKED):
            await auth.stub.RefreshToken(pb.RefreshTokenRequest(refresh_token=tokens.refresh_token))
    await auth.stub.GetMe(pb.GetMeRequest(), metadata=bearer(bot))

    await sessions.end(auth.settings, Whose(account=ann.user.account_id), api_keys=True)
    assert "ended 0 sessions and 1 API key\n" in capsys.readouterr().out
    await is_over(auth, bot)
    with refused(Reason.API_KEY_INVALID):
        await exchange_key(auth, key)

    await auth.stub.GetMe(pb.GetMeRequest(), metadata=bob.bearer)
    ann.tokens = (await auth.sign_in(ann)).tokens
    trail = await auth.stub.ListSecurityEvents(pb.ListSecurityEventsRequest(), metadata=ann.bearer)
    ended = [e for e in trail.events if e.kind == pb.SECURITY_EVENT_KIND_ENDED_BY_OPERATOR]
    assert len({event.subject for event in ended}) == 3
    assert key.api_key.api_key_id in {event.subject for event in ended}


async def test_everybodys_sessions_and_keys_end(
    auth: Auth, capsys: pytest.CaptureFixture[str]
) -> None:
    ann, bob = await auth.sign_up(), await auth.sign_up()
    bot = await exchange_key(auth, await key_of(auth, bob))
    await sessions.end(auth.settings, Whose(), api_keys=True)
    said = capsys.readouterr().out
    assert said.count("ended 1 session and 0 API keys") == 1
    assert said.count("ended 1 session and 1 API key\n") == 1
    for token in (ann.tokens.access_token, bob.tokens.access_token, bot):
        await is_over(auth, token)
    await sessions.end(auth.settings, Whose(), api_keys=True)
    assert "nobody has a session" in capsys.readouterr().out.splitlines()


async def test_an_account_that_is_not_there_is_one_clear_line(auth: Auth) -> None:
    with pytest.raises(OpsError, match=r"there is no user nobody@example\.test"):
        await sessions.end(auth.settings, Whose(email="nobody@example.test"), api_keys=False)
    with pytest.raises(OpsError, match="there is no user account 77"):
        await sessions.end(auth.settings, Whose(account=77), api_keys=False)
    with pytest.raises(OpsError, match="is not an e-mail address"):
        await sessions.end(auth.settings, Whose(email="ann at sea"), api_keys=False)
    elsewhere = auth.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with pytest.raises(OpsError, match="a store cannot be reached"):
        await sessions.end(elsewhere, Whose(), api_keys=False)


@pytest.mark.parametrize("arguments", [[], ["--all", "--account=1001"], ["--account=0"]])
def test_it_must_be_said_whose(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["sessions", "end", *arguments]).exit_code == 2


def test_everybody_is_asked_about_first() -> None:
    done = CliRunner().invoke(cli.app, ["sessions", "end", "--all"], input="n\n")
    assert done.exit_code == 1
    assert "End the sessions of everybody?" in done.output
