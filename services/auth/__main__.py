"""The auth service: settings and wiring."""

from __future__ import annotations

import asyncio
import datetime as dt

import structlog
from tidebook.auth.v1 import auth_pb2_grpc
from tidebook.settlement.v1 import ledger_pb2_grpc

from kernel.clock import Clock, SystemClock
from mesh.aio import cancel_and_wait, supervise
from mesh.channel import open_channel
from mesh.config import Settings
from mesh.postgres import open_pool_or_exit
from mesh.redis import open_redis
from mesh.revocation import EndedSessions, RevocationLog
from mesh.server import ServiceHost, run_service
from mesh.tokens import TokenVerifier
from services.auth.api_key_store import PostgresApiKeys
from services.auth.api_keys import ApiKeys
from services.auth.audit import AuditTrail
from services.auth.breached_passwords import BadPasswordList, open_breached_passwords
from services.auth.codes import Codes
from services.auth.common_passwords import load_common_passwords
from services.auth.mail import SmtpMailer
from services.auth.outbox import Outbox
from services.auth.passwords import BcryptPasswords
from services.auth.rate_limits import RateLimits
from services.auth.second_factor import SecondFactor
from services.auth.second_factor_store import PostgresSecondFactors
from services.auth.service import AccountPolicy, Accounts
from services.auth.servicer import AuthServicer
from services.auth.session_store import RedisSessions
from services.auth.sessions import SessionPolicy, Sessions
from services.auth.sign_in_codes import SignInCodes
from services.auth.signing import KeyPolicy, SigningKeys
from services.auth.store import PostgresUsers
from services.auth.vault import VaultError, open_vault
from services.auth.welcome import Welcome

log = structlog.get_logger("tidebook.auth")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    try:
        await serve(settings, stop, SystemClock())
    except (VaultError, BadPasswordList) as error:
        raise SystemExit(f"auth: {error}") from None


async def serve(settings: Settings, stop: asyncio.Event, clock: Clock) -> None:
    """Build everything on `clock`, and serve until `stop` is set. Raises `VaultError`,
    `BadPasswordList`.
    """
    breached = open_breached_passwords(settings.breached_passwords)
    if breached is None and settings.mode == "production":
        log.warning("breached_passwords_not_checked", setting="TIDEBOOK_BREACHED_PASSWORDS")
    vault = open_vault(settings.data_dir / "secrets" / "auth.key")
    pool = await open_pool_or_exit(settings, "auth", stateless=True)
    redis = open_redis(settings)
    passwords = BcryptPasswords(cost=settings.bcrypt_cost)
    settlement = open_channel(settings, "settlement", caller="auth")
    working: list[asyncio.Task[None]] = []
    try:
        keys = SigningKeys(
            pool,
            vault,
            clock,
            KeyPolicy(
                dt.timedelta(days=settings.signing_key_days) if settings.signing_key_days else None,
                dt.timedelta(seconds=settings.access_token_seconds),
            ),
        )
        await keys.load()
        audit = AuditTrail(pool, clock)
        welcome = Welcome(
            ledger_pb2_grpc.LedgerServiceStub(settlement), settings.play_balance_amounts()
        )
        mailer = SmtpMailer(settings.smtp_url, sender=settings.mail_from)
        outbox = Outbox(pool, vault, mailer, clock)
        users = PostgresUsers(pool, outbox, max_attempts=settings.otp_max_attempts)
        limits = RateLimits(redis, vault, settings)
        ended = EndedSessions(redis, clock)
        revocations = RevocationLog(redis, clock, token_seconds=settings.access_token_seconds)
        sessions = Sessions(
            RedisSessions(redis),
            vault,
            keys,
            audit,
            revocations,
            clock,
            SessionPolicy(
                access_seconds=settings.access_token_seconds,
                refresh_seconds=settings.refresh_token_seconds,
                most_seconds=settings.session_max_days * 86_400,
            ),
        )
        codes = Codes(vault)
        sign_in_codes = SignInCodes(users, codes, limits, audit, clock, settings.otp_seconds)
        accounts = Accounts(
            users=users,
            sessions=sessions,
            second_factor=SecondFactor(
                PostgresSecondFactors(pool, outbox), vault, limits, audit, clock
            ),
            sign_in_codes=sign_in_codes if settings.asks_for_sign_in_code else None,
            passwords=passwords,
            codes=codes,
            limits=limits,
            audit=audit,
            welcome=welcome,
            clock=clock,
            policy=AccountPolicy(
                code_seconds=settings.otp_seconds, production=settings.mode == "production"
            ),
            common_passwords=load_common_passwords(),
            breached=breached,
        )
        api_keys = ApiKeys(
            store=PostgresApiKeys(pool),
            sessions=sessions,
            vault=vault,
            signer=keys,
            audit=audit,
            limits=limits,
            revocations=revocations,
            clock=clock,
            access_seconds=settings.access_token_seconds,
        )
        servicer = AuthServicer(accounts, sessions, api_keys, keys.public_keys)

        async def forget_old(now: dt.datetime) -> None:
            await users.forget_old_codes(now)
            await audit.forget_old(now)

        working = [
            supervise(outbox.run(forget_old), "outbox"),
            supervise(audit.run(), "audit trail"),
            supervise(keys.run(), "signing keys"),
            supervise(ended.run(), "ended sessions"),
        ]
        host = await ServiceHost.start(
            settings,
            service="auth",
            public=[(auth_pb2_grpc.add_AuthServiceServicer_to_server, servicer)],
            verifier=TokenVerifier(keys.public_keys, clock=clock, ended=ended),
        )
        await stop.wait()
        await host.drain()
        await welcome.close()
    finally:
        await cancel_and_wait(*working)
        passwords.close()
        if breached is not None:
            breached.close()
        await settlement.close()
        await redis.aclose()
        await pool.close()


def main() -> None:
    """Entry point of the process."""
    run_service(run, "auth")


if __name__ == "__main__":
    main()
