"""`tidebook up`: the whole system under one process that starts, watches and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from types import ModuleType
from typing import Any

import asyncpg
import redis.exceptions
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mesh.aio import Backoff, cancel_and_wait
from mesh.identity import CertificateAuthority
from mesh.postgres import plain_url
from mesh.redis import open_redis
from ops import preflight, state
from ops.embedded import is_running, remove_runtime_dir
from ops.errors import OpsError
from ops.logs import SeriousLines
from ops.plan import STOP_ORDER, Plan, Store, grpc_address, http_url
from ops.processes import Child, ChildSpec

WATCH_SECONDS = 0.5
_DISK_EVERY = 20  # rounds
_STORES = ("PostgreSQL", "Valkey")
_LOW_DISK_BYTES = 256 << 20


class Supervisor:
    """Runs one `Plan` from the checks before the start to the last process's end."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._console = console
        self._lock = state.DataDirLock(plan.settings.data_dir)
        self._children: dict[str, Child] = {}
        self._stores: list[Store] = []
        self._started_at = dt.datetime.now(dt.UTC).isoformat()

    async def run(self, stop: asyncio.Event) -> int:
        """Start everything, keep it running until `stop`, stop it in order.

        Returns the exit code: 0 after a stop that was asked for, 1 when the start failed.
        """
        began = time.monotonic()
        try:
            if await _unless(stop, self._start()):
                self._show_addresses(time.monotonic() - began)
                await self._watch(stop)
            return 0
        except OpsError as error:
            self._print(f"[bold red]✗[/] {escape(str(error))}")
            return 1
        finally:
            await self._drain()

    # Starting.

    async def _start(self) -> None:
        data_dir = self._settings.data_dir
        preflight.check_reachable(self._settings)
        preflight.check_feed(self._settings)
        preflight.prepare_data_dir(data_dir)
        self._lock.acquire()
        await self._end_leftovers()
        preflight.check_disk(data_dir)
        preflight.check_ports(list(self._plan.listeners))
        # Loading the migrations' libraries takes as long as starting the stores: do both at once.
        await _together(
            [*map(self._start_store, self._plan.stores), asyncio.to_thread(_load_migrations)]
        )
        await self._check_external_stores()
        if self._settings.postgres_url is not None:
            async with self._step("database migrated"):
                await _load_migrations().migrate(self._settings.postgres_url)
        # Made here, not by whichever service comes first, so that a folder without rights is one
        # line and not five crashes.
        try:
            CertificateAuthority(self._settings.certificates_dir).issue("ops")
        except (OSError, ValueError) as error:
            raise OpsError(f"the certificates cannot be made: {error}") from None
        for wave in self._plan.waves:
            children = [self._add_child(spec) for spec in wave]
            await _together(self._wait_for(child) for child in children)
        for spec in self._plan.optional:
            self._add_child(spec)
        for note in self._plan.notes:
            self._say(note)

    async def _start_store(self, store: Store) -> None:
        async with self._step(store.name):
            self._stores.append(store)
            await store.start()

    async def _wait_for(self, child: Child) -> None:
        async with self._step(child.spec.name):
            await child.wait_healthy()

    def _add_child(self, spec: ChildSpec) -> Child:
        child = Child(spec, say=self._say, changed=self._write_state)
        self._children[spec.name] = child
        child.start()
        return child

    async def _check_external_stores(self) -> None:
        """One line for a store elsewhere that cannot be reached; our own have just answered."""
        settings = self._settings
        if settings.postgres_url is not None and not _has(self._stores, "PostgreSQL"):
            try:
                connection = await asyncpg.connect(plain_url(settings.postgres_url), timeout=5)
                await connection.close()
            except (OSError, asyncpg.PostgresError, ValueError) as error:
                raise OpsError(f"TIDEBOOK_POSTGRES_URL cannot be reached: {error}") from None
        if settings.redis_url is not None and not _has(self._stores, "Valkey"):
            client = open_redis(settings)
            try:
                await client.ping()
            except (OSError, redis.exceptions.RedisError) as error:
                raise OpsError(f"TIDEBOOK_REDIS_URL cannot be reached: {error}") from None
            finally:
                await client.aclose()

    async def _end_leftovers(self) -> None:
        """End the services of a supervisor that was killed where the kernel did not do it."""
        data_dir = self._settings.data_dir
        old = state.read_state(data_dir)
        deadline = time.monotonic() + self._settings.drain_seconds
        # The stores look for their own leftovers, which need other signals.
        left = (
            [part.pid for part in old.parts if part.pid and part.name not in _STORES] if old else []
        )
        while left := [pid for pid in left if is_running(pid, str(data_dir))]:
            sent = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            await asyncio.sleep(0.2)

    # Running.

    def hurry(self) -> None:
        """Kill the services at once: whoever asks twice to stop means it."""
        for child in self._children.values():
            child.kill()

    def _free_bytes(self) -> int:
        data_dir = self._settings.data_dir
        try:
            return shutil.disk_usage(data_dir).free
        except OSError as error:
            raise OpsError(f"the data directory {data_dir} is gone: {error.strerror}") from None

    async def _watch(self, stop: asyncio.Event) -> None:
        logs = {name: SeriousLines(child.spec.log_path) for name, child in self._children.items()}
        restarts: dict[str, asyncio.Task[None]] = {}
        low_on_disk = False
        rounds = 0
        try:
            while not stop.is_set():
                for name, lines in logs.items():
                    for line in lines.take():
                        self._say(f"{name}: {line}")
                for store in self._stores:
                    task = restarts.get(store.name)
                    if store.pid is None and (task is None or task.done()):
                        restarts[store.name] = asyncio.create_task(self._restart_store(store))
                if rounds % _DISK_EVERY == 0:
                    free = self._free_bytes()
                    if free < _LOW_DISK_BYTES and not low_on_disk:
                        self._say(f"the disk is nearly full: {free >> 20} MB are free")
                    low_on_disk = free < _LOW_DISK_BYTES
                rounds += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), WATCH_SECONDS)
        finally:
            await cancel_and_wait(*restarts.values())

    async def _restart_store(self, store: Store) -> None:
        backoff = Backoff(first_seconds=0.2, most_seconds=30)
        self._say(f"{store.name} ended; starting it again")
        began = time.monotonic()
        while True:
            try:
                await store.start()
            except OpsError as error:
                self._say(str(error))
                await backoff.wait()
                continue
            self._write_state()
            self._say(f"{store.name} is back after {time.monotonic() - began:.1f} s")
            return

    # Stopping.

    async def _drain(self) -> None:
        """Stop what was started, in order, each within its limit; nothing is left running."""
        if self._children or self._stores:
            self._print("Stopping")
        for name in sorted(self._children, key=_stop_rank):
            await self._children[name].stop(self._settings.drain_seconds)
        await asyncio.gather(*(store.stop() for store in self._stores))
        if self._children or self._stores:
            self._print("[green]✓[/] everything has stopped")
            state.forget_state(self._settings.data_dir)
            remove_runtime_dir(self._settings.data_dir)
        self._lock.release()

    # Telling.

    def _say(self, line: str) -> None:
        now = dt.datetime.now().strftime("%H:%M:%S")
        self._print(f"[dim]{now}[/] [yellow]![/] {escape(line)}")

    def _print(self, what: str | Table) -> None:
        # Whoever read this may be gone (a closed terminal or pipe, on which the console would end
        # the program); the system must still run, and be stopped in order.
        with contextlib.suppress(OSError, SystemExit):
            self._console.print(what, soft_wrap=True)

    @contextlib.asynccontextmanager
    async def _step(self, what: str) -> AsyncIterator[None]:
        began = time.monotonic()
        yield
        seconds = f"{time.monotonic() - began:.1f} s"
        self._print(f"[green]✓[/] {what} [dim]{seconds}[/]")

    def _write_state(self) -> None:
        parts = [
            state.PartState(store.name, store.pid, "", str(store.log_path))
            for store in self._stores
        ]
        parts += [
            state.PartState(
                child.spec.name,
                child.pid,
                child.spec.address,
                str(child.spec.log_path),
                child.spec.probe,
            )
            for child in self._children.values()
        ]
        settings = self._settings.model_dump(mode="json", exclude_defaults=True)
        written = state.RunState(os.getpid(), self._started_at, settings, parts)
        try:
            state.write_state(self._settings.data_dir, written)
        except OSError as error:
            self._say(f"`tidebook status` will not know of this: {error}")

    def _show_addresses(self, seconds: float) -> None:
        settings = self._settings
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        rows = [
            ("web page", http_url(settings)),
            ("HTTP API", f"{http_url(settings)}/docs"),
            ("gRPC", grpc_address(settings)),
        ]
        if "mailbox" in self._children:
            rows.append(("mailbox", f"{http_url(settings)}/dev/mailbox?to=ADDRESS"))
        rows += [
            (f"{child.spec.name} gRPC", child.spec.address)
            for child in self._children.values()
            if child.spec.probe is not None and child.spec.probe.kind != "http"
        ]
        rows.append(("data and logs", str(settings.data_dir)))
        for name, where in rows:
            table.add_row(f"[bold]{name}[/]", escape(where))
        self._print(table)
        self._print(f"[bold green]ready in {seconds:.1f} s[/] (Ctrl-C stops)")


async def supervise(plan: Plan, console: Console) -> int:
    """Run `plan` until this process is told to stop; returns the exit code."""
    supervisor = Supervisor(plan, console)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Under nohup the terminal's end is nothing to stop for.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal)
    return await supervisor.run(stop)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, given up when `stop` is set first; returns whether it was finished."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        await cancel_and_wait(task, stopped)


def _load_migrations() -> ModuleType:
    return importlib.import_module("ops.migrate")


async def _together(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Do all at once; the first failure ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _stop_rank(name: str) -> int:
    """Who stops before whom; the engines after the first are called engine-..., and who is in no
    order goes first.
    """
    kind = name.partition("-")[0]
    return STOP_ORDER.index(kind) if kind in STOP_ORDER else -1


def _has(stores: Iterable[Store], name: str) -> bool:
    return any(store.name == name for store in stores)
