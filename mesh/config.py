"""Settings: one flat object, read once at start from `TIDEBOOK_<SECTION>_<NAME>` variables.

Every field says what it does and in which unit; `describe` lists them with where each value came
from (that is what `tidebook config` prints). Build it in `__main__` and pass it on: nothing reads
the environment later.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.shards import ShardMap, by_shard

ENV_PREFIX = "TIDEBOOK_"
_AMOUNT = re.compile(r"([A-Z0-9]{1,16})\s*=\s*([0-9]{1,20}(?:\.[0-9]{1,18})?)", re.ASCII)
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


class Settings(BaseSettings):
    """All settings of all services. Unknown fields are refused; the object cannot be changed."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    # Where and how.
    data_dir: Path = Field(
        Path("./data"), description="Folder of everything kept between starts (0700)."
    )
    mode: Literal["demo", "dev", "production"] = Field(
        "demo",
        description="demo: faucet, bots and mailbox; dev: faucet and mailbox; production: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least serious log line that is written."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="console for people, json for collectors."
    )
    batch_scheduling: bool = Field(
        True,
        description="On Linux, no process of ours interrupts another: more orders a second on few"
        " cores. Off: the kernel's default.",
    )
    drain_seconds: float = Field(
        10.0, gt=0, description="Longest a stopping service waits for calls under way."
    )

    # Listeners.
    http_host: str = Field("127.0.0.1", description="Address the gateway's HTTP listens on.")
    http_port: int = Field(
        8080, ge=0, le=65535, description="HTTP, WebSocket and page of the gateway."
    )
    grpc_port: int = Field(50050, ge=0, le=65535, description="The gateway's one gRPC door.")
    public_host: str = Field("127.0.0.1", description="Address of all public gRPC listeners.")
    internal_host: str = Field("127.0.0.1", description="Address of all internal mTLS listeners.")
    public_tls_cert: Path | None = Field(
        None, description="PEM certificate chain; with public_tls_key makes public listeners TLS."
    )
    public_tls_key: Path | None = Field(None, description="PEM key of public_tls_cert.")
    pki_dir: Path | None = Field(
        None, description="Folder of the mTLS certificates; default <data_dir>/pki."
    )
    auth_port: int = Field(50051, ge=0, le=65435, description="auth, public; internal 100 higher.")
    engine_port: int = Field(
        50052, ge=0, le=65435, description="engine, public; internal 100 higher."
    )
    marketdata_port: int = Field(
        50053, ge=0, le=65435, description="marketdata, public; internal 100 higher."
    )
    settlement_port: int = Field(
        50054, ge=0, le=65435, description="settlement, public; internal 100 higher."
    )
    auth_address: str | None = Field(
        None, description="auth's internal listeners: host:port, a comma list, or dns:///name:port."
    )
    engine_address: str | None = Field(
        None, description="engine's internal listeners; with several shards 0=...;1=... and so on."
    )
    engine_endpoints: str | None = Field(
        None,
        description="engine's public listeners as bots reach them, host:port, by shard like"
        " engine_address; default: those of engine_address, a hundred ports lower.",
    )
    marketdata_address: str | None = Field(
        None, description="marketdata's internal listeners, by shard like engine_address."
    )
    settlement_address: str | None = Field(None, description="settlement's internal listeners.")
    grpc_max_message_bytes: int = Field(
        8 << 20, ge=1 << 16, description="Largest gRPC message taken or sent, in bytes."
    )
    grpc_max_connections: int = Field(
        2000, gt=0, description="Connections of a public gRPC listener; more are closed at once."
    )
    rpc_timeout_ms: int = Field(
        5000, gt=0, description="Deadline of a call between services that names none."
    )
    rpc_slow_ms: int = Field(
        250, gt=0, description="A unary call slower than this is logged at info."
    )

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

    # The gateway.
    web_dir: Path = Field(
        Path(__file__).resolve().parent.parent / "web" / "dist",
        description="Folder of the built web page.",
    )
    gateway_processes: int = Field(
        1,
        ge=1,
        le=16,
        description="Gateways that share the HTTP port and the gRPC door; of several, number n also"
        " has HTTP to itself, 50 + n ports above the shared one, for health and metrics.",
    )
    gateway_process: int = Field(0, ge=0, lt=16, description="Number of this gateway among these.")
    cors_origins: str = Field("", description="Comma list of web origins allowed besides our own.")
    trusted_proxies: str = Field(
        "",
        description="Comma list of proxy addresses whose X-Forwarded-For and -Proto are believed.",
    )
    https_only: bool | None = Field(
        None,
        description="Refuse plain HTTP that no trusted proxy had by https, and plain gRPC but from"
        " here and these proxies; default: in production, unless HTTP listens on a loopback address"
        " and no proxy is named.",
    )
    metrics_from: str = Field(
        "127.0.0.0/8,::1/128",
        description="Comma list of addresses that may read /metrics; others find nothing there.",
    )
    rate_limit_ip: str = Field(
        "6000/minute", description="Requests from one address, as N/second, minute, hour or day."
    )
    rate_limit_account: str = Field("12000/minute", description="Requests of one account.")
    rate_limit_auth: str | None = Field(
        None,
        description="Sign-up, sign-in and code requests from one address; default 20/minute in"
        " production and 2000/minute elsewhere, where bots and tests share one.",
    )
    http_max_connections: int = Field(
        6000,
        gt=0,
        description="HTTP connections one gateway holds, WebSockets included.",
    )
    http_max_connections_ip: int | None = Field(
        None,
        gt=0,
        description="Of these from one address that is no trusted proxy; default 256 in production"
        " and all of them elsewhere, where bots and tests share one.",
    )
    http_head_seconds: float = Field(
        10.0, gt=0, description="Longest that the head of a request may take to arrive."
    )
    http_body_seconds: float = Field(
        30.0, gt=0, description="Longest that the body of a request may take to arrive."
    )
    http_stalled_seconds: float = Field(
        30.0, gt=0, description="Longest that a client may take nothing of what it is sent."
    )
    http_idle_seconds: float = Field(
        75.0, gt=0, description="How long a connection without requests is kept."
    )
    ws_max_connections: int = Field(5000, gt=0, description="WebSockets one gateway holds.")
    ws_max_messages_per_second: int = Field(
        2000, gt=0, description="Messages a second that one WebSocket may send."
    )
    ws_max_subscriptions: int = Field(100, gt=0, description="Subscriptions of one WebSocket.")

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

    @field_validator("https_only", mode="before")
    @classmethod
    def _default_when_empty(cls, value: Any) -> Any:
        # Compose passes on what is not set as an empty text.
        return None if value == "" else value

    @field_validator("shards")
    @classmethod
    def _check_shards(cls, text: str) -> str:
        ShardMap.parse(text)
        return text

    @field_validator(
        "play_balance", "faucet_max_per_deposit", "faucet_max_per_day", "withdrawal_max_per_day"
    )
    @classmethod
    def _check_amounts(cls, text: str) -> str:
        _amounts(text)
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
    def faucet_enabled(self) -> bool:
        return self.mode != "production"

    @property
    def bots_enabled(self) -> bool:
        return self.mode == "demo" if self.bots is None else self.bots

    @property
    def asks_for_sign_in_code(self) -> bool:
        """`signin_email_code`, or its default in this mode."""
        if self.signin_email_code is None:
            return self.mode == "production"
        return self.signin_email_code

    @property
    def https_required(self) -> bool:
        """`https_only`, or its default in this mode."""
        if self.https_only is not None:
            return self.https_only
        # What never leaves the machine cannot be listened to on its way.
        stays_here = _is_loopback(self.http_host) and not self.trusted_proxies.strip()
        return self.mode == "production" and not stays_here

    @property
    def why_unreachable(self) -> str:
        """Why the gateway could have no clients with these settings; empty when it can."""
        if self.https_required and not self.trusted_proxies.strip():
            return (
                "plain HTTP is refused and no proxy is named that speaks https, so nobody could"
                " reach the gateway: set TIDEBOOK_TRUSTED_PROXIES, or TIDEBOOK_HTTPS_ONLY=false"
            )
        return ""

    @property
    def auth_rate_limit(self) -> str:
        """`rate_limit_auth`, or its default in this mode."""
        default = "20/minute" if self.mode == "production" else "2000/minute"
        return self.rate_limit_auth or default

    @property
    def connections_per_ip(self) -> int:
        """`http_max_connections_ip`, or its default in this mode."""
        default = 256 if self.mode == "production" else self.http_max_connections
        return self.http_max_connections_ip or default

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

    def play_balance_amounts(self) -> dict[str, str]:
        """Asset code -> decimal string that a new account begins with."""
        return _amounts(self.play_balance) if self.faucet_enabled else {}

    def faucet_limits(self) -> tuple[dict[str, str], dict[str, str]]:
        """(per deposit, per day), each asset code -> decimal string."""
        return _amounts(self.faucet_max_per_deposit), _amounts(self.faucet_max_per_day)

    def withdrawal_limits(self) -> dict[str, str]:
        """Asset code -> most that may be withdrawn in a day, decimal string."""
        return _amounts(self.withdrawal_max_per_day)


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
