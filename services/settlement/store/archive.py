"""The archive: every log entry ever written, in PostgreSQL, compressed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from mesh.log import GENESIS_HASH, LogRecord
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.store.database import Connection

_RAW, _ZLIB = 0, 1
# A level above 1 costs a multiple of the time for a few percent.
_ZLIB_LEVEL = 1
_COLUMNS = ("shard", "seq", "codec", "payload", "payload_sha256", "hash", "link")


class ArchiveEnd(NamedTuple):
    """The newest archived entry: its position, its hash in the log and its public link."""

    seq: int = 0
    hash: bytes = GENESIS_HASH
    link: bytes = GENESIS_HASH


class Link(NamedTuple):
    """What may be published of an entry."""

    seq: int
    payload_sha256: bytes
    hash: bytes
    link: bytes


def next_link(previous: bytes, payload_sha256: bytes, log_hash: bytes) -> bytes:
    """The public chain: sha256(previous link || sha-256 of the payload || hash of the log).

    The log's own hashes go over payloads, which hold everybody's orders. These go over nothing
    that may not be shown, so that anybody can check them.
    """
    return hashlib.sha256(previous + payload_sha256 + log_hash).digest()


def archive_rows(
    shard: int, records: Iterable[LogRecord], link: bytes
) -> tuple[list[tuple[object, ...]], bytes]:
    """Log records after the one with this link -> rows of the archive, and the link of the last.

    Compressing takes a while: call it off the loop.
    """
    rows: list[tuple[object, ...]] = []
    for record in records:
        digest = hashlib.sha256(record.payload).digest()
        link = next_link(link, digest, record.hash)
        rows.append((shard, record.seq, *_pack(record.payload), digest, record.hash, link))
    return rows, link


async def write_archive(connection: Connection, rows: list[tuple[object, ...]]) -> None:
    """Add rows. Raises `asyncpg.UniqueViolationError` when another process has added them."""
    await connection.copy_records_to_table("archive", records=rows, columns=_COLUMNS)


async def archive_end(connection: Connection, shard: int) -> ArchiveEnd:
    """The newest archived entry; position 0 and genesis hashes of an empty archive."""
    row = await connection.fetchrow(
        "select seq, hash, link from archive where shard = $1 order by seq desc limit 1", shard
    )
    return ArchiveEnd(*row) if row is not None else ArchiveEnd()


async def read_archive(
    connection: Connection, shard: int, after_seq: int, count: int
) -> list[LogRecord]:
    """Up to `count` archived entries after a position. Raises `PoisonEntry` for a damaged one."""
    rows = await connection.fetch(
        "select seq, codec, payload, hash from archive where shard = $1 and seq > $2"
        " order by seq limit $3",
        shard,
        after_seq,
        count,
    )
    return [
        LogRecord(seq, unpack(seq, codec, payload), hash_) for seq, codec, payload, hash_ in rows
    ]


async def read_links(connection: Connection, shard: int, from_seq: int, count: int) -> list[Link]:
    """The links of the entries from `from_seq` on."""
    rows = await connection.fetch(
        "select seq, payload_sha256, hash, link from archive where shard = $1 and seq >= $2"
        " order by seq limit $3",
        shard,
        from_seq,
        count,
    )
    return [Link(*row) for row in rows]


def _pack(payload: bytes) -> tuple[int, bytes]:
    packed = zlib.compress(payload, _ZLIB_LEVEL)
    return (_ZLIB, packed) if len(packed) < len(payload) else (_RAW, payload)


def unpack(seq: int, codec: int, payload: bytes) -> bytes:
    """What `archive_rows` packed. Raises `PoisonEntry` when it is damaged."""
    if codec == _RAW:
        return payload
    packed = zlib.decompressobj()
    try:
        content = packed.decompress(payload)
    except zlib.error as error:
        raise PoisonEntry(seq, "is damaged in the archive") from error
    # `zlib.decompress` would pass over what was added at the end.
    if not packed.eof or packed.unused_data:
        raise PoisonEntry(seq, "is damaged in the archive")
    return content
