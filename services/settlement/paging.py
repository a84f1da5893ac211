"""Opaque page tokens: the key of the last row seen, and the query that it belongs to."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib

from kernel.reasons import Reason, Refused

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page_size(wanted: int) -> int:
    """How many rows a page has: the default for 0, never more than 1000."""
    return min(wanted or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def make_token(query: str, key: tuple[int, ...]) -> str:
    """A token that continues after `key`; `query` names the request's filters."""
    body = struct.pack(f">I{len(key)}q", zlib.crc32(query.encode()), *key)
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def read_token(token: str, query: str, length: int) -> tuple[int, ...] | None:
    """The key in a token, None for an empty one.

    Raises `Refused(INVALID_ARGUMENT)` for a token that was not made for this query.
    """
    if not token:
        return None
    try:
        body = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        checksum, *key = struct.unpack(f">I{length}q", body)
    except (binascii.Error, struct.error, ValueError):
        checksum, key = -1, []
    if checksum != zlib.crc32(query.encode()):
        raise Refused(Reason.INVALID_ARGUMENT, "is not of a page of this query", field="page_token")
    return tuple(key)
