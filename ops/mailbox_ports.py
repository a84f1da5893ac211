"""Where the development mailbox listens, and whether it must run; quick to load."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.config import Settings

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class MailboxPorts:
    """Where the mailbox listens."""

    smtp_port: int
    http_port: int


def mailbox_ports(settings: Settings) -> MailboxPorts:
    """The ports named by the mail server's and the mailbox's URL."""
    smtp, http = urlsplit(settings.smtp_url), urlsplit(settings.mailbox_url)
    return MailboxPorts(smtp.port or 25, http.port or 80)


def local_mailbox(settings: Settings) -> MailboxPorts | None:
    """Its ports if it must run here: not in production, nor with a mail server elsewhere."""
    if settings.mode == "production" or urlsplit(settings.smtp_url).hostname not in _LOCAL:
        return None
    return mailbox_ports(settings)
