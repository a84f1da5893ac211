"""The archive: every log entry ever written, in PostgreSQL, compressed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator, Iterable

from mesh.log import GENESIS_HASH, LogRecord
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.store.database import Connection

_RAW, _ZLIB = 0, 1
# A level above 1 costs a multiple of the time for a few percent.
_ZLIB_LEVEL = 1
_COLUMNS = ("shard", "seq", "codec", "payload", "payload_sha256", "hash")


def archive_rows(shard: int, records: Iterable[LogRecord]) -> list[tuple[object, ...]]:
    """Log records -> rows of the archive. Compressing takes a while: call it off the loop."""
    return [
        (
            shard,
            record.seq,
            *_pack(record.payload),
            hashlib.sha256(record.payload).digest(),
            record.hash,
        )
        for record in records
    ]


async def write_archive(connection: Connection, rows: list[tuple[object, ...]]) -> None:
    """Add rows. Raises `asyncpg.UniqueViolationError` when another process has added them."""
    await connection.copy_records_to_table("archive", records=rows, columns=_COLUMNS)


async def archive_position(connection: Connection, shard: int) -> tuple[int, bytes]:
    """(seq, hash) of the newest archived entry; (0, genesis) of an empty archive."""
    row = await connection.fetchrow(
        "select seq, hash from archive where shard = $1 order by seq desc limit 1", shard
    )
    return (row[0], row[1]) if row is not None else (0, GENESIS_HASH)


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


async def iterate_archive(
    connection: Connection, shard: int, after_seq: int, *, chunk: int = 64
) -> AsyncIterator[list[LogRecord]]:
    """All archived entries after a position, in chunks."""
    while records := await read_archive(connection, shard, after_seq, chunk):
        yield records
        after_seq = records[-1].seq


async def read_links(
    connection: Connection, shard: int, from_seq: int, count: int
) -> list[tuple[int, bytes, bytes]]:
    """(seq, sha-256 of the payload, hash) of the entries from `from_seq` on."""
    rows = await connection.fetch(
        "select seq, payload_sha256, hash from archive where shard = $1 and seq >= $2"
        " order by seq limit $3",
        shard,
        from_seq,
        count,
    )
    return [(row[0], row[1], row[2]) for row in rows]


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
