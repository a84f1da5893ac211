"""Child processes of the supervisor: started, kept running, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.aio import Backoff
from ops import logs, tether
from ops.errors import OpsError
from ops.probes import Probe

# A child that ran this long before it ended has its backoff forgiven.
FORGIVE_SECONDS = 60.0
FIRST_BACKOFF_SECONDS = 0.5
MOST_BACKOFF_SECONDS = 30.0
# A service that ends this often before it was ever healthy will not get better by itself.
START_TRIES = 3
START_SECONDS = 60.0
# On top of the service's own limit for draining.
KILL_AFTER_SECONDS = 3.0


@dataclass(frozen=True)
class ChildSpec:
    """A child: what it is called, how it is started and how it is asked whether it is healthy."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log_path: Path
    address: str = ""
    probe: Probe | None = None


class Child:
    """One child process, started again when it ends without being told to.

    `say` gets one line for every event that a person should know; `changed` is called when the
    process id changed.
    """

    def __init__(
        self, spec: ChildSpec, *, say: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self.spec = spec
        self._say = say
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._ends = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start it and keep it running until `stop`."""
        self._keeper = asyncio.create_task(self._keep_running(), name=f"keep-{self.spec.name}")

    async def wait_healthy(self, timeout_s: float = START_SECONDS) -> None:
        """Return when it answers that it is healthy (at once if it cannot be asked).

        Raises `OpsError` with its last line when it keeps ending or takes longer than `timeout_s`.
        """
        probe = self.spec.probe
        deadline = time.monotonic() + timeout_s
        while probe is not None:
            if self.pid is not None and await probe.is_healthy():
                return
            if self._ends >= START_TRIES:
                raise self._failure(f"{self.spec.name} does not start")
            if time.monotonic() > deadline:
                raise self._failure(f"{self.spec.name} was not healthy within {timeout_s:.0f} s")
            await asyncio.sleep(0.05)

    async def stop(self, drain_seconds: float) -> None:
        """Tell it to end; kill it and what it started when that takes too long."""
        self._stopping.set()
        if self._keeper is None:
            return
        if self.pid is not None and self._process is not None:
            self._process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._keeper}, timeout=drain_seconds + KILL_AFTER_SECONDS)
        if not done and self.pid is not None:
            self._say(f"{self.spec.name} did not end within {drain_seconds:.0f} s and was killed")
            self.kill()
        await self._keeper

    def kill(self) -> None:
        """Kill it and whatever it started."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                # Its own session is its own process group.
                os.killpg(self.pid, signal.SIGKILL)

    async def _keep_running(self) -> None:
        backoff = Backoff(first_seconds=FIRST_BACKOFF_SECONDS, most_seconds=MOST_BACKOFF_SECONDS)
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                how = describe_exit(await self._run_once())
            except OSError as error:
                how = f"it cannot be started: {error}"
            if self._stopping.is_set():
                return
            self._ends += 1
            if time.monotonic() - started > FORGIVE_SECONDS:
                backoff.reset()
            wait_s = backoff.next_seconds()
            self._say(
                f"{self.spec.name} ended ({how});"
                f" starting it again in {wait_s:.1f} s (see {self.spec.log_path})"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _run_once(self) -> int:
        """Run it to its end; returns the exit code, negative for a signal."""
        logs.rotate(self.spec.log_path)
        with self.spec.log_path.open("ab") as log_file:
            self._process = await asyncio.create_subprocess_exec(
                *tether.prefix(signal.SIGTERM),
                *self.spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self.spec.environment),
                start_new_session=True,
            )
        if self._stopping.is_set():
            # `stop` came while the process was being made and could not signal it.
            self._process.send_signal(signal.SIGTERM)
        self._changed()
        recovery = asyncio.create_task(self._say_when_back()) if self._ends else None
        try:
            return await self._process.wait()
        finally:
            if recovery is not None:
                recovery.cancel()
            self._changed()

    async def _say_when_back(self) -> None:
        started = time.monotonic()
        with contextlib.suppress(OpsError):
            while self.spec.probe is not None and not await self.spec.probe.is_healthy():
                await asyncio.sleep(0.1)
            self._say(f"{self.spec.name} is back after {time.monotonic() - started:.1f} s")

    def _failure(self, what: str) -> OpsError:
        last = logs.last_line(self.spec.log_path)
        return OpsError(f"{what}: {last or 'it said nothing'} (see {self.spec.log_path})")


def python_command(*arguments: str) -> tuple[str, ...]:
    """A command that runs this Python, unbuffered so that logs are complete after a kill."""
    return (sys.executable, "-u", *arguments)


def describe_exit(code: int) -> str:
    """`-9` -> `killed by SIGKILL`, `1` -> `exit code 1`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
