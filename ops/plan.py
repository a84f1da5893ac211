"""What a whole system consists of, and how each part is started and reached."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mesh.config import (
    ENGINE_READS,
    INTERNAL_PORT_OFFSET,
    Settings,
    environment_of,
)
from mesh.settings_common import ENV_PREFIX
from ops.embedded import EmbeddedPostgres, EmbeddedValkey
from ops.mailbox_ports import local_mailbox
from ops.preflight import Listener, listeners
from ops.probes import Probe
from ops.processes import ChildSpec, python_command

_ROOT = Path(__file__).resolve().parent.parent
# Settlement outlives the engine to take its last entries, auth everything that checks tokens.
STOP_ORDER = ("bots", "gateway", "marketdata", "engine", "settlement", "auth", "mailbox")


class Store(Protocol):
    """An embedded server."""

    @property
    def name(self) -> str: ...

    @property
    def log_path(self) -> Path: ...

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True)
class Plan:
    """The parts of a system. `waves` start one after the other, the parts of a wave together.

    `settings` are those of the parts: with the URLs of the stores filled in. `optional` parts start
    last and may fail without failing the start.
    """

    settings: Settings
    stores: tuple[Store, ...]
    waves: tuple[tuple[ChildSpec, ...], ...]
    optional: tuple[ChildSpec, ...] = ()
    listeners: tuple[Listener, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(settings: Settings) -> Plan:
    """Everything that `settings` ask for."""
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    stores, urls = embedded_stores(settings)
    settings = settings.model_copy(update=urls | _addresses_by_shard(settings))
    first: list[ChildSpec] = []
    mailbox = local_mailbox(settings)
    if mailbox is not None:
        probe = Probe("http", f"http://{reach(settings.internal_host)}:{mailbox.http_port}/healthz")
        first.append(_service(settings, "mailbox", settings.mailbox_url, probe))
    first += [_grpc_service(settings, name) for name in ("auth", "settlement")]
    first += _engines(settings)
    first += _marketdata(settings)
    bots, notes = _bots(settings)
    return Plan(
        settings=settings,
        stores=stores,
        waves=(tuple(first), tuple(_gateways(settings))),
        optional=bots,
        listeners=tuple(listeners(settings)),
        notes=notes,
    )


def embedded_stores(settings: Settings) -> tuple[tuple[Store, ...], dict[str, Any]]:
    """The embedded servers for stores that no URL is set for, and the URLs they will have."""
    stores: list[Store] = []
    urls: dict[str, Any] = {}
    if settings.postgres_url is None:
        postgres = EmbeddedPostgres(settings.data_dir)
        stores.append(postgres)
        urls["postgres_url"] = postgres.url
    if settings.redis_url is None:
        valkey = EmbeddedValkey(settings.data_dir, fsync=settings.redis_appendfsync)
        stores.append(valkey)
        urls["redis_url"] = valkey.url
    return tuple(stores), urls


def http_url(settings: Settings) -> str:
    """Where a browser on this machine finds the page."""
    return f"http://{reach(settings.http_host)}:{settings.http_port}"


def grpc_address(settings: Settings) -> str:
    """Where a bot on this machine finds the gRPC door."""
    return f"{reach(settings.public_host)}:{settings.grpc_port}"


def reach(host: str) -> str:
    """The address to call for a listener on `host`: all interfaces include the local one."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)


def child_environment(settings: Settings) -> dict[str, str]:
    """This process's environment with Tidebook's variables replaced by `settings`."""
    others = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return others | environment_of(settings, {})


def _addresses_by_shard(settings: Settings) -> dict[str, Any]:
    """Where the engines of each shard are, for those who call whichever of them leads, and where
    each shard's market data is.
    """
    host = reach(settings.internal_host)
    engines, marketdata = settings.engines(), settings.marketdata_ports()
    found: dict[str, Any] = {}
    if len(engines) > 1 and settings.engine_address is None:
        ports: dict[int, list[int]] = {}
        for engine in engines:
            ports.setdefault(engine.shard, []).append(engine.port)
        found["engine_address"] = _by_shard(host, ports)
    if len(marketdata) > 1 and settings.marketdata_address is None:
        ports = {shard: [port] for shard, port in marketdata.items()}
        found["marketdata_address"] = _by_shard(host, ports)
    return found


def _by_shard(host: str, ports: dict[int, list[int]]) -> str:
    """The internal addresses beside public ports, as the settings have them."""
    lists = {
        shard: ",".join(f"{host}:{port + INTERNAL_PORT_OFFSET}" for port in of_shard)
        for shard, of_shard in ports.items()
    }
    if len(lists) == 1:
        return lists[0]
    return ";".join(f"{shard}={text}" for shard, text in lists.items())


def _marketdata(settings: Settings) -> list[ChildSpec]:
    """The market data service of each shard."""
    found = []
    for shard, port in settings.marketdata_ports().items():
        own = settings.model_copy(update={"marketdata_port": port, "shard": shard})
        name = f"marketdata-shard{shard}" if shard else "marketdata"
        log_path = settings.data_dir / "logs" / f"{name}.log"
        found.append(replace(_grpc_service(own, "marketdata"), name=name, log_path=log_path))
    return found


def _gateways(settings: Settings) -> list[ChildSpec]:
    """The gateways, which share one port; each is asked for its health at a port of its own."""
    ports = settings.gateway_ports()
    if not ports:
        url = http_url(settings)
        return [_service(settings, "gateway", url, Probe("http", f"{url}/readyz"))]
    found = []
    for number, port in ports.items():
        own = settings.model_copy(update={"gateway_process": number})
        name = f"gateway-{number + 1}" if number else "gateway"
        url = f"http://{reach(settings.internal_host)}:{port}"
        spec = _service(own, "gateway", url, Probe("http", f"{url}/readyz"))
        log_path = settings.data_dir / "logs" / f"{name}.log"
        found.append(replace(spec, name=name, log_path=log_path))
    return found


def _engines(settings: Settings) -> list[ChildSpec]:
    """The engines of each shard; they start alike, and the shard's lease says who leads."""
    engines = []
    for engine in settings.engines():
        own = settings.model_copy(update={"engine_port": engine.port, "shard": engine.shard})
        log_path = settings.data_dir / "logs" / f"{engine.name}.log"
        engines.append(replace(_grpc_service(own, "engine"), name=engine.name, log_path=log_path))
    if not settings.engine_followers:
        return engines
    # One that follows is well, and not healthy as a whole: that is for the one that leads.
    return [
        replace(spec, probe=replace(spec.probe, part=ENGINE_READS) if spec.probe else None)
        for spec in engines
    ]


def _grpc_service(settings: Settings, name: str) -> ChildSpec:
    address = f"{reach(settings.public_host)}:{settings.public_port(name)}"
    # Under TLS the certificate need not name this address, so only the connection is tried.
    kind: Any = "tcp" if settings.public_tls_cert else "grpc"
    return _service(settings, name, address, Probe(kind, address))


def _service(settings: Settings, name: str, address: str, probe: Probe) -> ChildSpec:
    return ChildSpec(
        name=name,
        # The data directory shows in `ps` which system a process belongs to.
        command=python_command(
            "-m", "ops.cli", "serve", name, "--data-dir", str(settings.data_dir)
        ),
        environment=child_environment(settings),
        log_path=settings.data_dir / "logs" / f"{name}.log",
        address=address,
        probe=probe,
    )


def _bots(settings: Settings) -> tuple[tuple[ChildSpec, ...], tuple[str, ...]]:
    """The liquidity bots, and what to say when they are wanted and missing."""
    if not settings.bots_enabled:
        return (), ()
    script = _ROOT / "examples" / "liquidity_bot.py"
    if not script.exists():
        return (), (f"{script} is not there: no bots will quote the markets",)
    arguments = {
        "--http": http_url(settings),
        "--grpc": grpc_address(settings),
        "--state": str(settings.data_dir / "bots" / "liquidity.json"),
    }
    words = [word for name, value in arguments.items() for word in (name, value)]
    spec = ChildSpec(
        name="bots",
        command=python_command(str(script), *words),
        environment=child_environment(settings),
        log_path=settings.data_dir / "logs" / "bots.log",
    )
    return (spec,), ()
