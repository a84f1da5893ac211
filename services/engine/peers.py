"""Snapshots from the other engines of the shard, for one that has none of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import structlog
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.channel import cancelling, open_channel
from mesh.config import Settings
from services.engine.snapshots import SnapshotStore

_PIECE_BYTES = 1 << 20
# A leader answers at once; without one the archive has everything too.
_ANSWER_SECONDS = 3.0
_ALL_SECONDS = 120.0

log = structlog.get_logger()


async def fetch_snapshot(settings: Settings, store: SnapshotStore) -> None:
    """Get the leader's newest snapshot into a store that has none.

    Failing is said in the log and no more: recovery then reads the archive.
    """
    address = settings.address_of("engine", settings.shard)
    alone = "," not in address and "//" not in address
    if alone or store.positions():
        return
    channel = open_channel(settings, "engine", caller="engine", address=address)
    try:
        async with asyncio.timeout(_ALL_SECONDS):
            seq = await _fetch(channel, settings.shard, store)
    except grpc.RpcError as error:
        log.info("peer_snapshot_not_had", code=error.code().name, why=error.details())
    except (OSError, ValueError) as error:
        # A time-out is an OSError.
        log.warning("peer_snapshot_not_kept", error=str(error) or type(error).__name__)
    else:
        log.info("peer_snapshot_kept", seq=seq)
    finally:
        await channel.close()


async def _fetch(channel: grpc.aio.Channel, shard: int, store: SnapshotStore) -> int:
    stub = internal_pb2_grpc.EngineInternalServiceStub(channel)
    call = stub.ReadSnapshot(internal_pb2.ReadSnapshotRequest(shard=shard))
    async with cancelling(call):
        async with asyncio.timeout(_ANSWER_SECONDS):
            piece = await call.read()
        if not isinstance(piece, internal_pb2.ReadSnapshotResponse):
            raise ValueError("there was nothing in the answer")
        seq = piece.log_seq
        with store.receiving(seq) as file:
            while isinstance(piece, internal_pb2.ReadSnapshotResponse):
                await asyncio.to_thread(file.write, piece.data)
                piece = await call.read()
    return seq


async def pieces_of_newest(
    store: SnapshotStore,
) -> AsyncGenerator[internal_pb2.ReadSnapshotResponse, None]:
    """The newest snapshot file in pieces. Raises `Refused(NOT_FOUND)`."""
    seq = max(store.positions(), default=0)
    path: Path = store.path(seq)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise Refused(Reason.NOT_FOUND, "this engine has no snapshot either") from None
    with file:
        while data := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield internal_pb2.ReadSnapshotResponse(log_seq=seq, data=data)
