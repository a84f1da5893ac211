"""Settings that others are read with: where everything is, in which mode, and its listeners."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "TIDEBOOK_"


class CommonSettings(BaseSettings):
    """Unknown fields are refused; the object cannot be changed."""

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
