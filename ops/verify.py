"""`tidebook verify`: log, archive, ledger, history and engine against one another.

Nothing is changed. What PostgreSQL holds is read in one snapshot, so the system may go on
meanwhile: everything is compared at the log position of that snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import asyncpg
import grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc

from mesh.channel import open_channel
from mesh.config import Settings
from mesh.log import GENESIS_HASH, ChainBroken, LogReader, LogRecord, chain_hash
from mesh.postgres import open_pool
from mesh.redis import open_redis
from ops.audit import Audit
from ops.findings import Check, Report
from ops.verify_books import compare_books, compare_shards
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.store.applying import read_progress
from services.settlement.store.archive import archive_end, next_link, unpack
from services.settlement.store.database import Connection

_CHUNK = 64
# How long the ledger may stand still before it is taken to have nobody who moves it.
_STANDSTILL_SECONDS = 3.0
_ENGINE_SECONDS = 3.0
# More lines of one kind say nothing new.
_SHOWN = 20


@dataclass(frozen=True)
class Archived:
    """An archived entry as it is stored, damaged or not; `payload` is None when unreadable."""

    seq: int
    payload: bytes | None
    payload_sha256: bytes
    hash: bytes
    link: bytes


async def verify(settings: Settings, *, json_output: bool = False) -> int:
    """Compare everything and print what was found; 0 when nothing differs, else 1.

    Raises what the stores raise when they cannot be reached.
    """
    report = await make_report(settings)
    if json_output:
        print(_as_json(report))
    else:
        _print(report, Console())
    return 1 if report.differences else 0


async def make_report(settings: Settings) -> Report:
    """Compare everything. See `verify`."""
    began = time.monotonic()
    report = Report()
    redis = open_redis(settings)
    pool = await open_pool(settings, "settlement")
    try:
        shards = settings.shard_map.numbers
        readers = {shard: LogReader(redis, shard) for shard in shards}
        engines = {shard: await _engine_state(settings, shard) for shard in shards}
        newest = {shard: await reader.last_seq() for shard, reader in readers.items()}
        for shard in shards:
            await _wait_for_ledger(pool, shard, newest[shard])
        async with (
            pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            # A long replay lies between two looks at the database.
            await connection.execute("set local idle_in_transaction_session_timeout = 0")
            for shard, reader in readers.items():
                report.suffix = f", shard {shard}" if len(shards) > 1 else ""
                await _compare(report, connection, reader, shard, engines[shard], newest[shard])
            report.suffix = ""
            if len(shards) > 1:
                await compare_shards(report.check("transfers between shards"), connection)
    finally:
        await pool.close()
        await redis.aclose()
    report.seconds = time.monotonic() - began
    return report


async def _engine_state(
    settings: Settings, shard: int
) -> internal_pb2.GetEngineStateResponse | None:
    """What the running engine of a shard says of itself; None when none runs."""
    address = settings.address_of("engine", shard)
    channel = open_channel(settings, "engine", caller="ops", address=address)
    try:
        stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
        request = internal_pb2.GetEngineStateRequest(with_balances=True, shard=shard)
        state = await stub.GetEngineState(request, timeout=_ENGINE_SECONDS)
        return state if isinstance(state, internal_pb2.GetEngineStateResponse) else None
    except grpc.RpcError:
        return None
    finally:
        await channel.close()


async def _wait_for_ledger(pool: asyncpg.Pool, shard: int, newest: int) -> None:
    """Until archive and ledger have reached `newest`, or have stood still for a while."""
    moved = time.monotonic()
    before: tuple[int, int] | None = None
    while time.monotonic() - moved < _STANDSTILL_SECONDS:
        async with pool.acquire() as connection:
            progress = await read_progress(connection, shard)
            archived_seq = (await archive_end(connection, shard)).seq
        if min(progress.seq, archived_seq) >= newest:
            return
        if (progress.seq, archived_seq) != before:
            before, moved = (progress.seq, archived_seq), time.monotonic()
        await asyncio.sleep(0.1)


async def _compare(
    report: Report,
    connection: Connection,
    reader: LogReader,
    shard: int,
    engine: internal_pb2.GetEngineStateResponse | None,
    newest: int,
) -> None:
    progress = await read_progress(connection, shard)
    archived_seq = (await archive_end(connection, shard)).seq
    # The archive of the snapshot may have gone past `newest` meanwhile, and so may the ledger.
    end = max(newest, archived_seq, progress.seq, engine.log_seq if engine else 0)
    report.positions[shard] = (progress.seq, end)
    chain, archive = report.check("log hash chain"), report.check("archive = log")
    links = report.check("public chain")
    replay, state = (
        report.check("replay = recorded events"),
        Check("engine = replay" + report.suffix),
    )
    audit = Audit(shard)
    if progress.seq == 0:
        await compare_books(report, connection, shard, audit, progress)
    seq, last_hash, last_link = 0, GENESIS_HASH, GENESIS_HASH
    async for stored, live in _entries(connection, reader, shard, archived_seq, end):
        seq += 1
        if stored is None and seq <= archived_seq:
            archive.differences.append(f"entry {seq}: is not in the archive")
        if stored is not None:
            links.compared += 1
            if stored.link != next_link(last_link, stored.payload_sha256, stored.hash):
                links.differences.append(f"entry {seq}: breaks the public chain")
            last_link = stored.link
        record, last_hash = _check_entry(chain, archive, seq, last_hash, stored, live)
        if record is None:
            break
        replay.differences.extend(audit.apply(seq, record))
        replay.compared = audit.commands
        if seq == progress.seq:
            if last_hash != progress.hash:
                chain.differences.append(f"the ledger was applied from another entry {seq}")
            await compare_books(report, connection, shard, audit, progress)
        if engine is not None and seq == engine.log_seq:
            _compare_engine(state, audit, engine)
        if seq % _CHUNK == 0:
            # Health checks of an embedded server, signals: let the loop breathe.
            await asyncio.sleep(0)
    if seq < progress.seq:
        chain.differences.append(f"the ledger is at entry {progress.seq}, the log ends at {seq}")
    replay.differences.extend(audit.conservation())
    replay.differences.extend(audit.positions.against_core(audit.exchange))
    if archived_seq < end:
        archive.note = f"{end - archived_seq} newest entries are not archived yet"
    if engine is None:
        state.note = "the engine does not run"
    report.checks.append(state)


async def _entries(
    connection: Connection, reader: LogReader, shard: int, archived_seq: int, end: int
) -> AsyncIterator[tuple[Archived | None, LogRecord | None]]:
    """Each entry up to `end` as archive and log have it; None from one that has not."""
    seq = 0
    while seq < end:
        last = min(seq + _CHUNK, end)
        stored = await _archived(connection, shard, seq, last) if seq < archived_seq else {}
        live = {r.seq: r for r in await _live(reader, seq, last)}
        for position in range(seq + 1, last + 1):
            yield stored.get(position), live.get(position)
        seq = last


async def _archived(
    connection: Connection, shard: int, after: int, last: int
) -> dict[int, Archived]:
    rows = await connection.fetch(
        "select seq, codec, payload, payload_sha256, hash, link from archive"
        " where shard = $1 and seq > $2 and seq <= $3",
        shard,
        after,
        last,
    )
    found = {}
    for seq, codec, packed, payload_sha256, entry_hash, link in rows:
        payload: bytes | None = None
        with contextlib.suppress(PoisonEntry):
            payload = unpack(seq, codec, packed)
        found[seq] = Archived(seq, payload, payload_sha256, entry_hash, link)
    return found


async def _live(reader: LogReader, after: int, last: int) -> list[LogRecord]:
    """What the log still has of the range, good or not."""
    try:
        return await reader.read(after, last - after)
    except ChainBroken:
        # Some of it is trimmed, or wrong: look at each.
        records = [await reader.get(seq) for seq in range(after + 1, last + 1)]
    return [record for record in records if record is not None]


def _check_entry(
    chain: Check,
    archive: Check,
    seq: int,
    previous: bytes,
    stored: Archived | None,
    live: LogRecord | None,
) -> tuple[bytes | None, bytes]:
    """Check an entry's links; (payload to replay, hash to go on from), None when it is lost."""
    chain.compared += 1
    if stored is not None:
        archive.compared += 1
        if stored.payload is None:
            archive.differences.append(f"entry {seq}: is damaged in the archive")
        elif stored.hash != chain_hash(previous, stored.payload):
            archive.differences.append(f"entry {seq}: the archive breaks the hash chain")
        elif stored.payload_sha256 != hashlib.sha256(stored.payload).digest():
            archive.differences.append(f"entry {seq}: the archive has a wrong payload hash")
        elif live is not None and (stored.payload, stored.hash) != (live.payload, live.hash):
            archive.differences.append(f"entry {seq}: archive and log are not the same")
    if live is None:
        if stored is None or stored.payload is None:
            chain.differences.append(f"entry {seq}: is neither in the log nor in the archive")
            return None, previous
        return stored.payload, stored.hash
    if live.hash != chain_hash(previous, live.payload):
        chain.differences.append(f"entry {seq}: the log breaks the hash chain")
        # Go on from what is written, so that one bad entry is one difference.
        if stored is not None and stored.payload is not None:
            return stored.payload, stored.hash
    return live.payload, live.hash


def _compare_engine(
    check: Check, audit: Audit, engine: internal_pb2.GetEngineStateResponse
) -> None:
    check.compared = 1
    check.note = f"at entry {engine.log_seq}"
    if engine.state_hash != audit.exchange.state_hash():
        check.differences.append(f"entry {engine.log_seq}: the engine is in another state")
    says = {(b.account_id, b.asset_id, False): b.free_units for b in engine.balances}
    says |= {(b.account_id, b.asset_id, True): b.held_units for b in engine.balances}
    core = audit.balances()
    for key in sorted(says.keys() | core.keys()):
        check.compared += 1
        if says.get(key, 0) != core.get(key, 0):
            check.differences.append(
                f"account {key[0]}, asset {key[1]}: the engine has {says.get(key, 0)},"
                f" the replay {core.get(key, 0)}"
            )


def _print(report: Report, console: Console) -> None:
    table = Table("check", "compared", "differences", "", box=None, padding=(0, 2, 0, 0))
    for check in report.checks:
        count = len(check.differences)
        style = "bold red" if count else ""
        table.add_row(check.name, f"{check.compared:,}", str(count), check.note, style=style)
    console.print(table)
    for line in _lines(report.checks):
        console.print(f"[red]{escape(line)}[/red]", highlight=False, soft_wrap=True)
    verdict = f"{report.differences} differences" if report.differences else "zero differences"
    where = ", ".join(
        f"{applied_seq} of {log_seq}" + (f" (shard {shard})" if len(report.positions) > 1 else "")
        for shard, (applied_seq, log_seq) in report.positions.items()
    )
    console.print(
        f"{verdict} at ledger position {where} ({report.seconds:.1f} s)",
        highlight=False,
    )


def _lines(checks: Iterable[Check]) -> list[str]:
    lines = []
    for check in checks:
        lines += [f"{check.name}: {text}" for text in check.differences[:_SHOWN]]
        if (more := len(check.differences) - _SHOWN) > 0:
            lines.append(f"{check.name}: {more} more")
    return lines


def _as_json(report: Report) -> str:
    return json.dumps(
        {
            "differences": report.differences,
            "applied_seq": report.positions[0][0],
            "log_seq": report.positions[0][1],
            "shards": [
                {"shard": shard, "applied_seq": applied_seq, "log_seq": log_seq}
                for shard, (applied_seq, log_seq) in report.positions.items()
            ],
            "checks": [
                {
                    "name": check.name,
                    "compared": check.compared,
                    "differences": check.differences,
                    "note": check.note,
                }
                for check in report.checks
            ],
        },
        indent=2,
    )
