"""What can be known to go wrong before anything is started; each finding is one clear line."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from kernel.clock import SystemClock
from kernel.markets import default_markets
from mesh.config import INTERNAL_PORT_OFFSET, SERVICES, Settings
from ops.errors import OpsError
from ops.mailbox_ports import local_mailbox

# The stores preallocate about 100 MB at first start; the rest is room to notice a filling disk.
MIN_FREE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that will be listened on, and the setting that moves it."""

    host: str
    port: int
    what: str
    variable: str


def listeners(settings: Settings) -> list[Listener]:
    """Every TCP listener of the whole system."""
    found = [
        Listener(settings.http_host, settings.http_port, "the page and HTTP", "TIDEBOOK_HTTP_PORT"),
        Listener(settings.public_host, settings.grpc_port, "the gRPC door", "TIDEBOOK_GRPC_PORT"),
    ]
    for name in SERVICES:
        variable = f"TIDEBOOK_{name.upper()}_PORT"
        public, internal = settings.public_port(name), settings.internal_port(name)
        found.append(Listener(settings.public_host, public, name, variable))
        found.append(Listener(settings.internal_host, internal, f"{name}, internal", variable))
    variable = "TIDEBOOK_ENGINE_PORT"
    for engine in settings.engines()[1:]:
        what, internal = engine.name, engine.port + INTERNAL_PORT_OFFSET
        found.append(Listener(settings.public_host, engine.port, what, variable))
        found.append(Listener(settings.internal_host, internal, f"{what}, internal", variable))
    for shard, port in settings.marketdata_ports().items():
        if shard:
            what, variable = f"marketdata of shard {shard}", "TIDEBOOK_MARKETDATA_PORT"
            found.append(Listener(settings.public_host, port, what, variable))
            internal = port + INTERNAL_PORT_OFFSET
            found.append(Listener(settings.internal_host, internal, f"{what}, internal", variable))
    for number, port in settings.gateway_ports().items():
        what = f"HTTP of gateway {number + 1} alone"
        found.append(Listener(settings.internal_host, port, what, "TIDEBOOK_HTTP_PORT"))
    mailbox = local_mailbox(settings)
    if mailbox is not None:
        host = settings.internal_host
        found.append(Listener(host, mailbox.smtp_port, "mail", "TIDEBOOK_SMTP_URL"))
        found.append(Listener(host, mailbox.http_port, "the mailbox", "TIDEBOOK_MAILBOX_URL"))
    return found


def check_ports(wanted: list[Listener]) -> None:
    """Raise `OpsError` for the first listener that could not be opened."""
    for listener in wanted:
        if not listener.port:
            continue
        where = f"port {listener.port} on {listener.host} ({listener.what})"
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        with socket.socket(family) as probe:
            # As servers do: a port that only old closed connections remember is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listener.host, listener.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise OpsError(
                        f"{where} is in use by another program:"
                        f" set {listener.variable}, or move all ports with --port-base"
                    ) from None
                raise OpsError(f"{where} cannot be opened: {_plain(error)}") from None


def check_reachable(settings: Settings) -> None:
    """Raise `OpsError` for settings that leave the gateway without clients."""
    if settings.why_unreachable:
        raise OpsError(settings.why_unreachable)


def check_feed(settings: Settings) -> None:
    """Raise `OpsError` for a feed that market data would not start with."""
    # Commands that start nothing need not load what a feed needs.
    from services.marketdata.feeds.choose import make_feeds

    try:
        make_feeds(settings.feed, default_markets(), SystemClock())
    except ValueError as error:
        raise OpsError(str(error)) from None


def prepare_data_dir(data_dir: Path) -> None:
    """Make the data directory and prove that it can be written; raises `OpsError`."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = data_dir / ".write-test"
        try:
            # More than a block: a full disk often still takes an empty file.
            probe.write_bytes(os.urandom(1 << 16))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise OpsError(
            f"the data directory {data_dir} cannot be used: {_plain(error)};"
            " choose another with --data-dir"
        ) from None


def check_disk(data_dir: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise `OpsError` when fewer than `min_free_bytes` are free for the data directory."""
    free = shutil.disk_usage(data_dir).free
    if free < min_free_bytes:
        raise OpsError(
            f"the disk of {data_dir} is full: {free >> 20} MB are free and"
            f" {min_free_bytes >> 20} MB are needed; make room or choose another --data-dir"
        )


def _plain(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
