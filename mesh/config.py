"""Settings: one flat object, read once at start from `TIDEBOOK_<SECTION>_<NAME>` variables.

Every field says what it does and in which unit; `describe` lists them with where each value came
from (that is what `tidebook config` prints). Build it in `__main__` and pass it on: nothing reads
the environment later. Those of accounts and of the gateway are in `settings_accounts.py` and
`settings_gateway.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from mesh.settings_accounts import AccountSettings
from mesh.settings_common import ENV_PREFIX
from mesh.settings_gateway import GatewaySettings
from mesh.shards import ShardMap, by_shard

INTERNAL_PORT_OFFSET = 100
SHARD_PORT_OFFSET = 200
FOLLOWER_PORT_OFFSET = 10
GATEWAY_PORT_OFFSET = 50
# Health of what every engine does; the whole service is healthy only where orders are taken.
ENGINE_READS = "tidebook.engine.reads"
# Health of the ledger of settlement, which may stand still while all else is served.
LEDGER_PART = "tidebook.settlement.ledger"
# Each shard has its own; all others serve every shard.
SHARDED_SERVICES = ("engine", "marketdata")
SERVICES: tuple[str, ...] = ("auth", "engine", "marketdata", "settlement")

_URL_PASSWORD = re.compile(r"(?<=:)[^:@/]+(?=@)")


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """One engine of a shard; number 0 starts as leader. `port` is that of its public listener."""

    shard: int
    number: int
    port: int

    @property
    def name(self) -> str:
        """engine, engine-2; of other shards engine-shard1, engine-shard1-2."""
        of_shard = f"engine-shard{self.shard}" if self.shard else "engine"
        return f"{of_shard}-{self.number + 1}" if self.number else of_shard


class Settings(GatewaySettings, AccountSettings):
    """All settings of all services. Unknown fields are refused; the object cannot be changed."""

    # Storage.
    postgres_url: str | None = Field(
        None, description="PostgreSQL to use instead of the embedded one."
    )
    redis_url: str | None = Field(
        None, description="Redis or Valkey to use instead of the embedded one (redis://, unix://)."
    )
    postgres_pool_max: int = Field(8, ge=1, description="Most connections a service opens.")
    redis_appendfsync: Literal["always", "everysec"] = Field(
        "always", description="Embedded Valkey: always survives a power cut; everysec is quicker."
    )

    # The log and the engine.
    shard: int = Field(0, ge=0, lt=32, description="Number of this engine shard; names its log.")
    shards: str = Field(
        "",
        description="Which engine shard has which markets: 0=BTC_*,ETH_USDC;1=* (the longest name"
        " that fits a market has it); empty: one shard with all of them.",
    )
    log_batch_max: int = Field(
        1000, ge=1, description="Most commands written as one log entry (group commit)."
    )
    engine_queue_max: int = Field(
        20_000, ge=1, description="Commands that may wait before new orders are refused."
    )
    log_unarchived_max: int = Field(
        50_000, ge=1, description="Log entries not archived yet at which new orders are refused."
    )
    log_append_slow_ms: int = Field(
        2000, ge=1, description="An append slower than this makes new orders be refused."
    )
    snapshot_every_entries: int = Field(
        10_000, ge=1, description="Log entries between two snapshots of the engine."
    )
    snapshot_keep: int = Field(10, ge=1, description="Snapshots kept; older ones are deleted.")
    lease_seconds: float = Field(
        1.0, gt=0, description="Time after which a silent engine leader loses its lease."
    )
    engine_followers: int = Field(
        0,
        ge=0,
        le=4,
        description="Engines of each shard that follow its leader and take over; number n listens"
        " 10 * n ports higher than the engine.",
    )

    engine_core_dir: Path | None = Field(
        None,
        description="Where compiled engine cores are (tools/build_core.py); one made of this very"
        " source is used in its place.",
    )

    # Market data.
    feed: str = Field(
        "backpack",
        description="backpack, replay:FILE.csv.gz[?speed=N] or synthetic[:SEED]; several, divided"
        " by semicolons, make an index that is their median.",
    )
    feed_fallback: bool = Field(
        True, description="Without a network go on with the synthetic feed, and say so."
    )
    price_stale_ms: int = Field(5000, gt=0, description="Age at which an external price is stale.")
    price_interval_ms: int = Field(
        200, gt=0, description="Least time between two sendings of external prices to the engine."
    )
    candles_1s_days: int = Field(
        7, gt=0, description="Days that candles of one second are kept; all others for ever."
    )
    bots: bool | None = Field(
        None, description="Run the liquidity bots; default: only in demo mode."
    )

    # Telemetry.
    otlp_endpoint: str | None = Field(
        None, description="OTLP gRPC collector, http://host:4317; also gets every span."
    )
    trace_keep_seconds: int = Field(
        86_400, gt=0, description="How long the built-in store keeps spans."
    )
    trace_keep_mb: int = Field(
        256,
        gt=0,
        description="Most MB that each process keeps there; the oldest spans go before their time.",
    )

    @field_validator("shards")
    @classmethod
    def _check_shards(cls, text: str) -> str:
        ShardMap.parse(text)
        return text

    @property
    def shard_map(self) -> ShardMap:
        """The shards, and where bots find them."""
        shards = ShardMap.parse(self.shards)
        found: dict[int, tuple[str, ...]] = {}
        for number in shards.numbers:
            if self.engine_endpoints is not None:
                found[number] = _list(_of_shard(self.engine_endpoints, number))
            else:
                addresses = map(_public_address, _list(self.address_of("engine", number)))
                found[number] = tuple(address for address in addresses if address)
        return replace(shards, endpoints=found)

    @property
    def certificates_dir(self) -> Path:
        """Where the mTLS certificates live."""
        return self.pki_dir or self.data_dir / "pki"

    @property
    def bots_enabled(self) -> bool:
        return self.mode == "demo" if self.bots is None else self.bots

    def public_port(self, service: str) -> int:
        """Port of a service's public listener; 0 lets the system choose."""
        port: int = getattr(self, f"{service}_port")
        return port

    def internal_port(self, service: str) -> int:
        """Port of a service's internal listener; 0 lets the system choose."""
        port = self.public_port(service)
        return port + INTERNAL_PORT_OFFSET if port else 0

    def engines(self) -> list[EngineProcess]:
        """All engines of this system: of each shard the one that starts as leader, then those that
        follow it.
        """
        return [
            EngineProcess(
                shard,
                number,
                self.engine_port + SHARD_PORT_OFFSET * shard + FOLLOWER_PORT_OFFSET * number,
            )
            for shard in self.shard_map.numbers
            for number in range(self.engine_followers + 1)
        ]

    def gateway_ports(self) -> dict[int, int]:
        """Number of a gateway -> its own HTTP port; none when there is only one gateway."""
        if self.gateway_processes == 1:
            return {}
        first = self.http_port + GATEWAY_PORT_OFFSET
        return {number: first + number for number in range(self.gateway_processes)}

    def marketdata_ports(self) -> dict[int, int]:
        """Shard -> port of the public listener of its market data service."""
        return {
            shard: self.marketdata_port + SHARD_PORT_OFFSET * shard
            for shard in self.shard_map.numbers
        }

    def address_of(self, service: str, shard: int = 0) -> str:
        """Internal address of a service as `open_channel` takes it; `shard` is for those that each
        shard has of its own.
        """
        address: str | None = getattr(self, f"{service}_address")
        if service not in SHARDED_SERVICES:
            return address or f"127.0.0.1:{self.internal_port(service)}"
        if address:
            return _of_shard(address, shard)
        return f"127.0.0.1:{self.internal_port(service) + SHARD_PORT_OFFSET * shard}"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as `tidebook config` shows it; passwords in URLs are masked."""

    variable: str
    value: str
    source: str  # "default", "environment" or "argument"
    description: str


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; keyword arguments (command line options) win.

    Raises `pydantic.ValidationError` naming each bad variable.
    """
    return Settings(**overrides)


def problems_of(error: ValidationError) -> list[str]:
    """What `load_settings` found wrong, one line per variable."""
    return [f"{_variable('_'.join(map(str, e['loc'])))}: {e['msg']}" for e in error.errors()]


def describe(settings: Settings, *, arguments: frozenset[str] = frozenset()) -> list[SettingRow]:
    """Every setting with value and source; `arguments` are the fields given to `load_settings`."""
    rows = []
    for name, field in Settings.model_fields.items():
        variable = _variable(name)
        if name in arguments:
            source = "argument"
        elif variable in os.environ:
            source = "environment"
        else:
            source = "default"
        value = getattr(settings, name)
        text = "" if value is None else _URL_PASSWORD.sub("***", str(value))
        rows.append(SettingRow(variable, text, source, field.description or ""))
    return rows


def environment_of(settings: Settings, names: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables that make a child process see `settings` changed by `names`."""
    changed = settings.model_dump(exclude_defaults=True) | dict(names)
    return {_variable(n): str(v) for n, v in changed.items() if v is not None}


def _variable(name: str) -> str:
    """`http_port` -> `TIDEBOOK_HTTP_PORT`."""
    return (ENV_PREFIX + name).upper()


def _of_shard(text: str, shard: int) -> str:
    """The addresses of one shard; those of a system with one shard need no number."""
    return by_shard(text).get(shard, "") if "=" in text else text


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _public_address(internal: str) -> str:
    """The public listener beside an internal one; empty when it has no port to tell by."""
    host, _, port = internal.rpartition(":")
    if "//" in internal or not port.isdecimal():
        return ""
    return f"{host}:{int(port) - INTERNAL_PORT_OFFSET}"
