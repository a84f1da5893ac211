"""Settings of accounts: mail, passwords, sessions, and money in and out."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from mesh.settings_common import CommonSettings

_AMOUNT = re.compile(r"([A-Z0-9]{1,16})\s*=\s*([0-9]{1,20}(?:\.[0-9]{1,18})?)", re.ASCII)


class AccountSettings(CommonSettings):
    """What auth and settlement hold people to."""

    # Mail and accounts.
    smtp_url: str = Field(
        "smtp://127.0.0.1:1025", description="Mail server: smtp[s]://[user:password@]host:port."
    )
    mail_from: str = Field("Tidebook <no-reply@tidebook.local>", description="Sender of mails.")
    mailbox_url: str = Field(
        "http://127.0.0.1:8025", description="HTTP address of the development mailbox."
    )
    access_token_seconds: int = Field(600, gt=0, description="Life of an access token.")
    refresh_token_seconds: int = Field(
        30 * 86_400, gt=0, description="Life of an unused refresh token."
    )
    session_max_days: int = Field(
        90, gt=0, description="Days after which a session ends, however often it was refreshed."
    )
    otp_seconds: int = Field(600, gt=0, description="Life of a one-time code.")
    signin_email_code: bool | None = Field(
        None,
        description="Signing in without an authenticator app asks for a code by mail beside the"
        " password; default: in production.",
    )
    otp_max_attempts: int = Field(5, gt=0, description="Wrong codes before a new one is needed.")
    signin_max_failures: int = Field(
        10, gt=0, description="Wrong passwords in a row before an account is locked for a while."
    )
    signin_lock_seconds: int = Field(900, gt=0, description="How long such a lock lasts.")
    signing_key_days: int = Field(
        30, ge=0, description="Age at which the key that signs access tokens is replaced; 0: never."
    )
    bcrypt_cost: int = Field(12, ge=4, le=16, description="Work factor of password hashes.")
    breached_passwords: Path | None = Field(
        None,
        description="File of the SHA-1 hashes of breached passwords, one a line and in order, as"
        " Have I Been Pwned gives it away; those are refused.",
    )

    # Deposits and withdrawals. Amounts are decimal strings: money never passes through a float.
    play_balance: str = Field(
        "USDC=5000",
        description="What a new account begins with while there is a faucet; empty for nothing.",
    )
    faucet_max_per_deposit: str = Field(
        "USDC=100000,BTC=5,ETH=50,SOL=1000,DOGE=500000,BNB=200",
        description="Most of each asset one faucet deposit may give.",
    )
    faucet_max_per_day: str = Field(
        "USDC=500000,BTC=25,ETH=250,SOL=5000,DOGE=2500000,BNB=1000",
        description="Most of each asset an account may take from the faucet in 24 h.",
    )
    reconcile_seconds: float = Field(
        5.0, gt=0, description="Time between two comparisons of engine, ledger and archive."
    )
    withdrawal_max_per_day: str = Field(
        "USDC=1000000,BTC=50,ETH=500,SOL=10000,DOGE=5000000,BNB=2000",
        description="Most of each asset an account may withdraw in 24 h.",
    )
    transfer_deadline_seconds: int = Field(
        300, gt=0, description="Age at which a transfer that was never sent is given up."
    )
    order_overdue_seconds: int = Field(
        60, gt=0, description="How long after its expiry a live order is reported as overdue."
    )
    payout_delay_ms: int = Field(
        3000, ge=0, description="How long a withdrawal can still be cancelled before it is sent."
    )

    @field_validator(
        "play_balance", "faucet_max_per_deposit", "faucet_max_per_day", "withdrawal_max_per_day"
    )
    @classmethod
    def _check_amounts(cls, text: str) -> str:
        _amounts(text)
        return text

    @property
    def faucet_enabled(self) -> bool:
        return self.mode != "production"

    @property
    def asks_for_sign_in_code(self) -> bool:
        """`signin_email_code`, or its default in this mode."""
        if self.signin_email_code is None:
            return self.mode == "production"
        return self.signin_email_code

    def play_balance_amounts(self) -> dict[str, str]:
        """Asset code -> decimal string that a new account begins with."""
        return _amounts(self.play_balance) if self.faucet_enabled else {}

    def faucet_limits(self) -> tuple[dict[str, str], dict[str, str]]:
        """(per deposit, per day), each asset code -> decimal string."""
        return _amounts(self.faucet_max_per_deposit), _amounts(self.faucet_max_per_day)

    def withdrawal_limits(self) -> dict[str, str]:
        """Asset code -> most that may be withdrawn in a day, decimal string."""
        return _amounts(self.withdrawal_max_per_day)


def _amounts(text: str) -> dict[str, str]:
    """`"USDC=5,BTC=0.1"` -> `{"USDC": "5", "BTC": "0.1"}`; raises `ValueError`."""
    amounts: dict[str, str] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        found = _AMOUNT.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is not like USDC=5000")
        if found[1] in amounts:
            raise ValueError(f"{found[1]} is given twice")
        amounts[found[1]] = found[2]
    return amounts
