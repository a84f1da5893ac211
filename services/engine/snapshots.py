"""Snapshots as files: one per log position, the newest few kept, a damaged one never believed.

Layout: magic, version, sha-256 of all that follows, then log position, epoch, hash of the log at
that position, size of the core's part, the core's part, the read model's part.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO, Final

import structlog

from mesh.config import Settings
from mesh.log import GENESIS_HASH
from services.engine import read_model
from services.engine.domain.exchange import Exchange
from services.engine.projection import Projection
from services.engine.watch import AccountFeeds

_MAGIC: Final = b"TBSNAPSH"
_VERSION: Final = 1
_SEAL: Final = Struct("<8sI32s")
_POSITION: Final = Struct("<QQ32sQ")
_SUFFIX: Final = ".snapshot"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is in a file: the state of core and read model after log entry `seq`."""

    seq: int
    epoch: int
    log_hash: bytes
    core: bytes
    readers: bytes


class SnapshotStore:
    """The snapshots of one shard in a folder; the last `keep` are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    @classmethod
    def of(cls, settings: Settings) -> SnapshotStore:
        """Where the engine of these settings keeps its snapshots."""
        folder = settings.data_dir / "engine" / "snapshots"
        if settings.shard:
            folder = folder / str(settings.shard)
        return cls(folder, settings.snapshot_keep)

    def positions(self) -> list[int]:
        """Log positions of the snapshots there are, oldest first; whether they are good or not."""
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(ValueError):
                found.append(int(path.stem))
        return sorted(found)

    def write(self, snapshot: Snapshot) -> Path:
        """Make a snapshot durable, then forget those that are too old. Raises `OSError`.

        The file appears whole or not at all, whenever the power goes.
        """
        position = _POSITION.pack(
            snapshot.seq, snapshot.epoch, snapshot.log_hash, len(snapshot.core)
        )
        seal = _SEAL.pack(_MAGIC, _VERSION, _digest(position, snapshot.core, snapshot.readers))
        path = self.path(snapshot.seq)
        with self._making(path) as file:
            for part in (seal, position, snapshot.core, snapshot.readers):
                file.write(part)
        self._forget_old()
        return path

    @contextlib.contextmanager
    def receiving(self, seq: int) -> Iterator[IO[bytes]]:
        """A file for the bytes of another engine's snapshot; it is kept once they are all there.

        Raises `OSError`, and `ValueError` when they are not what that engine wrote.
        """
        with self._making(self.path(seq)) as file:
            yield file
            file.flush()
            _parse(Path(file.name).read_bytes(), seq)

    @contextlib.contextmanager
    def _making(self, path: Path) -> Iterator[IO[bytes]]:
        """A new file at `path`, durable; nothing is there after a failure."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        os.close(handle)
        try:
            with open(name, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        _fsync(self._folder)

    def read(self, seq: int) -> Snapshot:
        """The snapshot of a position. Raises `OSError`, and `ValueError` for a bad one."""
        return _parse(self.path(seq).read_bytes(), seq)

    def newest_first(self) -> Iterator[Snapshot]:
        """Good snapshots; a bad one is said in the log and skipped."""
        for seq in reversed(self.positions()):
            try:
                yield self.read(seq)
            except (OSError, ValueError) as error:
                log.error("snapshot_skipped", seq=seq, error=str(error))

    def set_aside_after(self, seq: int) -> list[int]:
        """Rename the snapshots of later positions, so that nobody restores them; which those were.

        They belong to a log that is lost.
        """
        later = [position for position in self.positions() if position > seq]
        for position in later:
            path = self.path(position)
            path.rename(path.with_name(f"{path.name}.lost"))
        return later

    def path(self, seq: int) -> Path:
        """Where the snapshot of a position is."""
        return self._folder / f"{seq:016}{_SUFFIX}"

    def _forget_old(self) -> None:
        for seq in self.positions()[: -self._keep]:
            # Another process may have done it.
            with contextlib.suppress(FileNotFoundError):
                self.path(seq).unlink()


def take(exchange: Exchange, projection: Projection, feeds: AccountFeeds) -> Snapshot:
    """A snapshot of a core that is at rest at the read model's position."""
    return Snapshot(
        projection.seq,
        exchange.epoch,
        projection.log_hash or GENESIS_HASH,
        exchange.snapshot(),
        read_model.dump(projection, feeds.positions()),
    )


def restore(snapshot: Snapshot, projection: Projection, feeds: AccountFeeds) -> Exchange:
    """The core of a snapshot; fills the empty read models beside it.

    Raises `ValueError`, before anything is filled, for a snapshot of another version.
    """
    collects = gc.isenabled()
    # Millions of objects are made here, and none of them is garbage then or soon after: looking
    # through them would take longer than making them.
    gc.disable()
    try:
        exchange = Exchange.restore(snapshot.core)
        feeds.restore(read_model.load(snapshot.readers, exchange, projection))
    finally:
        gc.freeze()
        if collects:
            gc.enable()
    return exchange


def _parse(data: bytes, seq: int) -> Snapshot:
    """The snapshot in a file of that position. Raises `ValueError` for a bad one."""
    if len(data) < _SEAL.size + _POSITION.size:
        raise ValueError("it is too short")
    magic, version, digest = _SEAL.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it is not of this version of the program")
    if _digest(memoryview(data)[_SEAL.size :]) != digest:
        raise ValueError("its checksum is wrong")
    found, epoch, log_hash, size = _POSITION.unpack_from(data, _SEAL.size)
    if found != seq:
        raise ValueError(f"it is the one of position {found}")
    at = _SEAL.size + _POSITION.size
    return Snapshot(seq, epoch, log_hash, data[at : at + size], data[at + size :])


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _fsync(folder: Path) -> None:
    """Make a rename in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
