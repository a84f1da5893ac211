"""What a running system says about itself: the lock on its data directory, and `run/state.json`."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mesh.config import Settings
from ops.errors import OpsError
from ops.probes import Probe


@dataclass(frozen=True, slots=True)
class PartState:
    """One process of a running system; `probe` is None for one that cannot be asked."""

    name: str
    pid: int | None
    address: str
    log: str
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """A running system: what `status`, `verify` and `bench` need to find it.

    `settings` holds every setting as the services got it, store URLs included, which may hold
    passwords; the file is readable by its owner alone.
    """

    supervisor_pid: int
    started_at: str
    settings: dict[str, Any]
    parts: list[PartState] = field(default_factory=list)

    def running_settings(self) -> Settings:
        """The settings that the running services have."""
        return Settings(**self.settings)


class DataDirLock:
    """At most one system on a data directory. The kernel lets go of it when the holder dies."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it or raise `OpsError` naming who holds it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise OpsError(
                f"Tidebook already runs on {self._data_dir} (process {holder}):"
                " see `tidebook status`, or choose another --data-dir"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of it, if held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_held(self) -> bool:
        """Whether some process holds it now."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def _path(self) -> Path:
        return self._data_dir / ".lock"


def state_path(data_dir: Path) -> Path:
    """Where the state of the system on `data_dir` is written."""
    return data_dir / "run" / "state.json"


def write_state(data_dir: Path, state: RunState) -> None:
    """Write it so that a reader sees the old one or the new one, and nobody else sees any."""
    path = state_path(data_dir)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(state), file, indent=1, default=str)
    draft.replace(path)


def read_state(data_dir: Path) -> RunState | None:
    """The last one written, also when that system was killed; None without a readable one."""
    try:
        raw = json.loads(state_path(data_dir).read_text())
        parts = [
            PartState(**{**part, "probe": Probe(**part["probe"]) if part["probe"] else None})
            for part in raw.pop("parts")
        ]
        return RunState(**raw, parts=parts)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget_state(data_dir: Path) -> None:
    """Remove it: the system has stopped."""
    state_path(data_dir).unlink(missing_ok=True)
