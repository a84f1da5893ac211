"""The development mailbox: takes every mail by SMTP, keeps the last ones, shows them as JSON.

`GET /messages?to=ADDRESS&limit=N` answers `{"messages": [{"id", "from", "to", "subject", "text",
"received_at"}]}`, newest first. It has no door: it runs in demo and dev mode only, on the local
address only.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email
import email.policy
from collections import deque
from email.message import EmailMessage
from typing import Any

import structlog
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from mesh.config import Settings
from ops.mailbox_ports import mailbox_ports

KEEP_MESSAGES = 1000
MAX_MESSAGE_BYTES = 1 << 20
_MAX_TEXT_CHARACTERS = 1 << 16

log = structlog.get_logger("tidebook.ops.mailbox")


class Mailbox:
    """The last `KEEP_MESSAGES` mails."""

    def __init__(self) -> None:
        self._messages: deque[dict[str, Any]] = deque(maxlen=KEEP_MESSAGES)
        self._next_id = 1

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep one mail (aiosmtpd calls this name) and answer as SMTP does."""
        content = envelope.content or b""
        raw = content.encode() if isinstance(content, str) else content
        self.keep(envelope.mail_from or "", envelope.rcpt_tos, raw)
        # Not the text: it holds one-time codes.
        log.info("mail_received", recipients=len(envelope.rcpt_tos))
        return "250 kept"

    def keep(self, sender: str, recipients: list[str], raw: bytes) -> None:
        """Keep one mail; the oldest goes when there are `KEEP_MESSAGES`."""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        self._messages.appendleft(
            {
                "id": self._next_id,
                "from": sender,
                "to": [address.lower() for address in recipients],
                "subject": str(message["subject"] or ""),
                "text": _text_of(message)[:_MAX_TEXT_CHARACTERS],
                "received_at": dt.datetime.now(dt.UTC).isoformat(),
            }
        )
        self._next_id += 1

    def messages(self, to: str | None, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` mails, or those to one address."""
        wanted = to.strip().lower() if to else None
        found = [mail for mail in self._messages if wanted is None or wanted in mail["to"]]
        return found[:limit]


def _text_of(message: EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    return str(body.get_content()) if body is not None else ""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; raises `OSError` when a port is taken."""
    ports = mailbox_ports(settings)
    mailbox = Mailbox()

    async def list_messages(request: web.Request) -> web.Response:
        limit = request.query.get("limit", "50")
        count = min(int(limit), KEEP_MESSAGES) if limit.isdecimal() else 50
        return web.json_response({"messages": mailbox.messages(request.query.get("to"), count)})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    application = web.Application()
    application.add_routes([web.get("/messages", list_messages), web.get("/healthz", healthz)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    smtp = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, data_size_limit=MAX_MESSAGE_BYTES, enable_SMTPUTF8=True),
        settings.internal_host,
        ports.smtp_port,
    )
    try:
        await web.TCPSite(runner, settings.internal_host, ports.http_port).start()
        log.info("mailbox_ready", smtp_port=ports.smtp_port, http_port=ports.http_port)
        await stop.wait()
    finally:
        smtp.close()
        await runner.cleanup()
