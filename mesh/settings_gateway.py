"""Settings of the gateway: its clients, their limits, and what it shows them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from mesh.settings_common import CommonSettings


class GatewaySettings(CommonSettings):
    """What the gateway, and whoever limits its callers too, goes by."""

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

    @field_validator("https_only", mode="before")
    @classmethod
    def _default_when_empty(cls, value: Any) -> Any:
        # Compose passes on what is not set as an empty text.
        return None if value == "" else value

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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
