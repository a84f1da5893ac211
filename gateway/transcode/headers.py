"""Which HTTP headers become gRPC metadata, and back; `Grpc-Timeout`.

As grpc-gateway: `Grpc-Metadata-X` -> `x`, permanent HTTP headers -> `grpcgateway-<name>`,
`-bin` values are base64; server metadata -> `Grpc-Metadata-<name>`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.transcode.errors import TranscodeError

Metadata = tuple[tuple[str, str | bytes], ...]

METADATA_PREFIX = "grpc-metadata-"
_PERMANENT_PREFIX = "grpcgateway-"
# RFC 7231 and friends, as grpc-gateway's isPermanentHTTPHeader. Authorization and Cookie are left
# out on purpose: credentials go on in one place only, chosen by the application.
_PERMANENT = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-language",
        "accept-ranges",
        "cache-control",
        "content-type",
        "date",
        "expect",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-schedule-tag-match",
        "if-unmodified-since",
        "max-forwards",
        "origin",
        "pragma",
        "referer",
        "user-agent",
        "via",
        "warning",
    }
)
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Names a client may not set through `Grpc-Metadata-*`, because others rely on them.

    `forward` are permanent headers that go on (with their prefix); a name ending in `-` in
    `reserved` stands for all names that begin so.
    """

    reserved: frozenset[str] = frozenset({"grpc-"})
    forward: frozenset[str] = _PERMANENT

    def is_reserved(self, name: str) -> bool:
        return name in self.reserved or any(
            name.startswith(prefix) for prefix in self.reserved if prefix.endswith("-")
        )

    def incoming(self, headers: Iterable[tuple[str, str]]) -> Metadata:
        """Metadata of a call from the headers of its request.

        Raises `TranscodeError` (400) for metadata that cannot be sent.
        """
        metadata: list[tuple[str, str | bytes]] = []
        for header, value in headers:
            name = header.lower()
            if name.startswith(METADATA_PREFIX):
                key = name.removeprefix(METADATA_PREFIX)
                if not self.is_reserved(key):
                    metadata.append((key, _value(key, value)))
            elif name in self.forward and _METADATA_VALUE.fullmatch(value):
                metadata.append((_PERMANENT_PREFIX + name, value))
        return tuple(metadata)

    def outgoing(self, metadata: Iterable[tuple[str, str | bytes]], *, prefix: str) -> Metadata:
        """Headers of a response from server metadata or trailers."""
        return tuple(
            (prefix + name, base64.b64encode(value).decode() if isinstance(value, bytes) else value)
            for name, value in metadata
            if not self.is_reserved(name)
        )


def parse_grpc_timeout(text: str) -> float:
    """`"100m"` -> 0.1 seconds; raises `TranscodeError` (400)."""
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise TranscodeError.invalid("must be like 5S or 250m", field="Grpc-Timeout")
    return int(match[1]) * _UNITS[match[2]]


def _value(key: str, value: str) -> str | bytes:
    if not _METADATA_KEY.fullmatch(key) or not _METADATA_VALUE.fullmatch(value):
        raise TranscodeError.invalid("is not possible as gRPC metadata", field=key)
    if not key.endswith("-bin"):
        return value
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise TranscodeError.invalid("must be base64", field=key) from error
