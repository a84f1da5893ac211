"""What must never be seen: secrets in logs, in stores, in files others can read."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.redis import open_redis
from services.auth.vault import VaultError, open_vault
from tests.auth.conftest import PASSWORD, Auth, MailServer, refused, running_auth
from tests.support import eventually


async def everything_stored(auth: Auth) -> str:
    """All of Postgres' auth schema and all of Redis, as text."""
    parts: list[str] = []
    connection = await asyncpg.connect(auth.settings.postgres_url)
    try:
        tables = await connection.fetch(
            "select table_name from information_schema.tables where table_schema = 'auth'"
        )
        for table in tables:
            for row in await connection.fetch(f"select * from auth.{table['table_name']}"):
                parts += [
                    value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    for value in row.values()
                ]
    finally:
        await connection.close()
    client = open_redis(auth.settings)
    try:
        keys: list[Any] = await client.keys("*")
        parts += [key.decode() for key in keys]
        for key in keys:
            if await client.type(key) == b"hash":
                fields: dict[Any, Any] = await client.hgetall(key)
                parts += [value.decode("latin-1") for value in fields.values()]
    finally:
        await client.aclose()
    return "\n".join(parts)


async def test_no_secret_is_in_a_log_line_or_a_store(
    settings: Settings, mail_server: MailServer, capfd: pytest.CaptureFixture[str]
) -> None:
    await mail_server.stop()  # so that a mail with its code waits in the store
    async with running_auth(settings, mail_server) as auth:
        waiting = auth.new_email()
        await auth.stub.SignUp(pb.SignUpRequest(email=waiting, password=PASSWORD))
        await mail_server.start()
        stored = [await everything_stored(auth)]
        code = await auth.mail.code_for(waiting)

        ann = await auth.sign_up()
        await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=ann.email))
        reset = await auth.mail.code_for(ann.email, nth=2)
        with refused(Reason.OTP_INVALID):
            await auth.stub.VerifyOtp(pb.VerifyOtpRequest(email=ann.email, code=reset))
        with refused(Reason.BAD_CREDENTIALS):
            await auth.stub.SignIn(pb.SignInRequest(email=ann.email, password="mistyped-harbour-1"))
        refreshed = await auth.stub.RefreshToken(
            pb.RefreshTokenRequest(refresh_token=ann.tokens.refresh_token)
        )
        key = await auth.stub.CreateApiKey(
            pb.CreateApiKeyRequest(name="bot", scopes=[pb.SCOPE_READ]), metadata=ann.bearer
        )
        token = await auth.stub.ExchangeApiKey(
            pb.ExchangeApiKeyRequest(api_key_id=key.api_key.api_key_id, secret=key.secret)
        )
        totp = await auth.enable_totp(ann)
        stored.append(await everything_stored(auth))
        await auth.stub.SignIn(
            pb.SignInRequest(
                email=ann.email,
                password=PASSWORD,
                recovery_code=totp.recovery_codes[0],
            )
        )
    logs = "".join(capfd.readouterr())
    assert "session_opened" in logs
    long_secrets = [
        PASSWORD,
        "mistyped-harbour-1",
        key.secret,
        totp.secret,
        *totp.recovery_codes,
        token.access_token,
        ann.tokens.access_token,
        refreshed.tokens.access_token,
        *ann.tokens.refresh_token.split(".")[2:],
        *refreshed.tokens.refresh_token.split(".")[2:],
    ]
    for secret in long_secrets:
        assert secret not in logs
        assert all(secret not in content for content in stored)
    # Six digits occur by chance in times and ids; codes are told apart by what stands before them.
    for digits in (code, reset):
        assert f"code is {digits}" not in logs
        assert all(f"code is {digits}" not in content for content in stored)
        assert f"code={digits}" not in logs
    master_key = (settings.data_dir / "secrets" / "auth.key").read_bytes()
    assert master_key.decode("latin-1") not in "".join(stored)


async def test_a_mail_is_deleted_once_it_is_sent(auth: Auth) -> None:
    await auth.sign_up()
    connection = await asyncpg.connect(auth.settings.postgres_url)
    try:

        async def empty() -> bool:
            return not await connection.fetchval("select count(*) from auth.outbox")

        await eventually(empty)
    finally:
        await connection.close()


def test_the_key_file_is_its_owners_alone_and_the_same_at_every_start(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "auth.key"
    first = open_vault(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    sealed = first.seal("test", b"content")
    assert open_vault(path).unseal("test", sealed) == b"content"
    assert first.mac("test", "ab", "c") != first.mac("test", "a", "bc")
    with pytest.raises(VaultError):
        first.unseal("another purpose", sealed)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "auth.key"
    open_vault(path)
    path.chmod(0o644)
    with pytest.raises(VaultError, match="chmod 600"):
        open_vault(path)


async def test_a_lost_key_file_stops_the_service_with_one_clear_line(
    settings: Settings, mail_server: MailServer
) -> None:
    async with running_auth(settings, mail_server):
        pass
    (settings.data_dir / "secrets" / "auth.key").unlink()
    with pytest.raises(VaultError, match="does not belong to this key"):
        async with running_auth(settings, mail_server):
            pass
