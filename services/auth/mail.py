"""The mails auth sends, and the mail server that takes them."""

from __future__ import annotations

import datetime as dt
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

import aiosmtplib

from services.auth.domain.model import Address, Mail
from services.auth.outbox import MailRefused

_TIMEOUT_SECONDS = 10.0
_PORTS = {"smtp": 25, "smtps": 465}
# A notice that is a day late still has its use, unlike a code.
_NOTICE_KEPT = dt.timedelta(days=1)


class SmtpMailer:
    """Sends through `smtp[s]://[user:password@]host[:port]`; STARTTLS wherever it is offered."""

    def __init__(self, url: str, *, sender: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("TIDEBOOK_SMTP_URL must be smtp[s]://[user:password@]host[:port]")
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._tls = parts.scheme == "smtps"
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = sender

    async def send(self, mail: Mail) -> None:
        """Raises `MailRefused` on a final refusal (5xx) and `OSError` on any other failure.

        Neither says what is in the mail.
        """
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain="tidebook")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        try:
            await aiosmtplib.send(
                message,
                hostname=self._host,
                port=self._port,
                username=self._user,
                password=self._password,
                use_tls=self._tls,
                timeout=_TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            final = all(500 <= refused.code < 600 for refused in error.recipients)
            raise _failure(error, final=final) from None
        except aiosmtplib.SMTPResponseException as error:
            # A wrong user or password is the operator's to correct; the mail can wait for it.
            login = isinstance(error, aiosmtplib.SMTPAuthenticationError)
            raise _failure(error, final=500 <= error.code < 600 and not login) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise _failure(error, final=False) from None


def _failure(error: Exception, *, final: bool) -> Exception:
    code = getattr(error, "code", None)
    text = type(error).__name__ + (f" {code}" if code is not None else "")
    return MailRefused(text) if final else OSError(text)


def sign_up_code(address: Address, code: str, expires_at: dt.datetime, minutes: int) -> Mail:
    """The code that proves an address."""
    return Mail(
        to=address.email,
        subject="Your Tidebook code",
        text=f"Your code is {code}\n\n"
        f"It opens your Tidebook account and is good for {minutes} minutes.\n"
        "Nobody from Tidebook will ever ask you for it. If it was not you, ignore this mail.\n",
        expires_at=expires_at,
    )


def sign_in_code(address: Address, code: str, expires_at: dt.datetime, minutes: int) -> Mail:
    """The code that a sign-in asks for beside the password."""
    return Mail(
        to=address.email,
        subject="Your Tidebook code for signing in",
        text=f"Your code is {code}\n\n"
        f"Somebody signs in with your password; the code lets them in and is good for {minutes}"
        " minutes.\nIf it is not you, tell it to nobody, and set another password.\n",
        expires_at=expires_at,
    )


def already_registered(address: Address, expires_at: dt.datetime) -> Mail:
    """To the owner of an address that somebody signs up with again."""
    return Mail(
        to=address.email,
        subject="You already have a Tidebook account",
        text="Somebody, maybe you, tried to sign up with this address, which has an account."
        "\nSign in, or ask for a new password there. If it was not you, ignore this mail.\n",
        expires_at=expires_at,
    )


def reset_code(address: Address, code: str, expires_at: dt.datetime, minutes: int) -> Mail:
    """The code with which a password can be set anew."""
    return Mail(
        to=address.email,
        subject="Your Tidebook code for a new password",
        text=f"Your code is {code}\n\nIt sets a new password and is good for {minutes} minutes."
        "\nIf you did not ask for it, ignore this mail: your password stays as it is.\n",
        expires_at=expires_at,
    )


def recovery_codes_created(email: str, now: dt.datetime) -> Mail:
    """A notice: the second factor has recovery codes now, and no others."""
    return Mail(
        to=email,
        subject="New recovery codes for your Tidebook account",
        text="Recovery codes were made for the second factor of your Tidebook account; earlier ones"
        " do not work any more.\nIf it was not you, change your password and end all sessions at"
        " once.\n",
        expires_at=now + _NOTICE_KEPT,
    )


def recovery_code_used(email: str, left: int, now: dt.datetime) -> Mail:
    """A notice: somebody came in without the authenticator app; `left` codes remain."""
    return Mail(
        to=email,
        subject="A recovery code of your Tidebook account was used",
        text="A recovery code took the place of your authenticator app."
        f"\nCodes that are left: {left}. New ones are made in the security settings."
        "\nIf it was not you, change your password and end all sessions at once.\n",
        expires_at=now + _NOTICE_KEPT,
    )


def second_factor_ended(email: str, now: dt.datetime) -> Mail:
    """A notice: the password alone opens the account from now on."""
    return Mail(
        to=email,
        subject="The second factor of your Tidebook account is off",
        text="Signing in to your Tidebook account does not ask for a code any more."
        "\nIf it was not you, change your password and end all sessions at once.\n",
        expires_at=now + _NOTICE_KEPT,
    )


def password_changed(email: str, now: dt.datetime) -> Mail:
    """A notice to the owner, who may not have been the one."""
    return Mail(
        to=email,
        subject="Your Tidebook password was changed",
        text="The password of your Tidebook account was changed, and other sessions were ended."
        "\nIf it was not you, ask for a new password at once and look through your API keys.\n",
        expires_at=now + _NOTICE_KEPT,
    )
