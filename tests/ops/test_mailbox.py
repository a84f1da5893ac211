"""The development mailbox: mail goes in by SMTP and comes out as JSON, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path

import aiohttp
import aiosmtplib
import pytest_asyncio

from mesh.config import Settings
from ops import mailbox
from ops.mailbox_ports import local_mailbox, mailbox_ports
from tests.builders import make_settings
from tests.support import eventually, free_port


@pytest_asyncio.fixture
async def settings(short_dir: Path) -> AsyncIterator[Settings]:
    """Settings of a running mailbox."""
    settings = make_settings(
        short_dir,
        smtp_url=f"smtp://127.0.0.1:{free_port()}",
        mailbox_url=f"http://127.0.0.1:{free_port()}",
    )
    stop = asyncio.Event()
    server = asyncio.create_task(mailbox.run(settings, stop))
    await eventually(lambda: get(settings, "/messages"))
    yield settings
    stop.set()
    await server


async def send(settings: Settings, to: str, subject: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@tidebook.local", to, subject
    message.set_content(f"Your code is 123456. Schöne Grüße: {subject}")
    port = mailbox_ports(settings).smtp_port
    await aiosmtplib.send(message, hostname="127.0.0.1", port=port, start_tls=False)


async def get(settings: Settings, path: str) -> dict[str, list[dict[str, object]]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(settings.mailbox_url + path) as answer,
    ):
        assert answer.status == 200
        found: dict[str, list[dict[str, object]]] = await answer.json()
        return found


async def test_the_newest_mail_to_an_address_comes_first(settings: Settings) -> None:
    await send(settings, "Ann@example.com", "first")
    await send(settings, "bob@example.com", "other")
    await send(settings, "ann@example.com", "second")

    found = (await get(settings, "/messages?to=ann@example.com"))["messages"]
    assert [mail["subject"] for mail in found] == ["second", "first"]
    assert "Your code is 123456. Schöne Grüße" in str(found[0]["text"])
    assert len((await get(settings, "/messages?limit=2"))["messages"]) == 2


async def test_old_mails_make_room_for_new_ones(settings: Settings) -> None:
    kept = mailbox.Mailbox()
    for number in range(mailbox.KEEP_MESSAGES + 5):
        kept.keep("a@tidebook.local", ["ann@example.com"], f"Subject: {number}\r\n\r\n".encode())
    found = kept.messages("ann@example.com", limit=mailbox.KEEP_MESSAGES * 2)
    assert len(found) == mailbox.KEEP_MESSAGES
    assert found[0]["subject"] == str(mailbox.KEEP_MESSAGES + 4)


def test_production_has_no_mailbox(short_dir: Path) -> None:
    assert local_mailbox(make_settings(short_dir, mode="production")) is None
    elsewhere = make_settings(short_dir, smtp_url="smtps://mail.example.com:465")
    assert local_mailbox(elsewhere) is None
