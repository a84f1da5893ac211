"""The supervisor over stand-in services: order, restarts, and that nothing is ever left running."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis.asyncio
from rich.console import Console

from ops import state
from ops.embedded import EmbeddedValkey, is_running
from ops.plan import Plan
from ops.probes import Probe
from ops.processes import python_command
from ops.status import show
from ops.supervisor import Supervisor
from tests.ops import fake_system
from tests.support import eventually, free_ports

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks in /proc")
PORTS = range(len(fake_system.NAMES))


@dataclass
class Running:
    """A supervisor at work, and what it said."""

    task: asyncio.Task[int]
    stop: asyncio.Event
    output: io.StringIO
    data_dir: Path

    def pid_of(self, name: str) -> int:
        written = state.read_state(self.data_dir)
        assert written is not None
        pid = next(part.pid for part in written.parts if part.name == name)
        assert pid is not None
        return pid


@contextlib.asynccontextmanager
async def supervised(plan: Plan) -> AsyncIterator[Running]:
    """Run `plan` until the block ends, then stop it."""
    output = io.StringIO()
    stop = asyncio.Event()
    task = asyncio.create_task(Supervisor(plan, Console(file=output, width=400)).run(stop))
    running = Running(task, stop, output, plan.settings.data_dir)
    try:
        yield running
    finally:
        stop.set()
        await task


def processes_of(data_dir: Path) -> list[int]:
    """Every process whose command line names `data_dir`."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if pid != os.getpid() and is_running(pid, str(data_dir))]


@pytest.fixture
def plan(short_dir: Path) -> Iterator[Plan]:
    yield fake_system.make_plan(short_dir, free_ports(PORTS))
    assert processes_of(short_dir) == []


async def assert_shown_healthy(data_dir: Path) -> None:
    """`tidebook status` finds every part healthy; stand-ins have no books, which it says."""
    told = io.StringIO()
    assert await show(data_dir, Console(file=told, width=400)) == 1
    assert told.getvalue().count("healthy") == len(fake_system.NAMES)
    assert "not healthy" not in told.getvalue()
    assert "the books cannot be read now" in told.getvalue()


async def test_a_started_system_is_healthy_and_a_stopped_one_is_gone(plan: Plan) -> None:
    data_dir = plan.settings.data_dir
    async with supervised(plan) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
        await assert_shown_healthy(data_dir)
        mode = state.state_path(data_dir).stat().st_mode
        assert mode & 0o077 == 0
    assert running.task.result() == 0
    assert await show(data_dir, Console(file=io.StringIO())) == 3


async def test_services_stop_in_an_order_that_loses_nothing(plan: Plan) -> None:
    async with supervised(plan) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
    ended = (plan.settings.data_dir / "ended").read_text().split()
    assert ended == ["gateway", "marketdata", "engine", "settlement", "auth"]


async def test_a_killed_service_is_started_again_and_said_so(plan: Plan) -> None:
    async with supervised(plan) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
        killed = running.pid_of("engine")
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: "engine is back after" in running.output.getvalue())
        assert running.pid_of("engine") != killed
    said = [line for line in running.output.getvalue().splitlines() if "engine ended" in line]
    assert len(said) == 1 and "killed by SIGKILL" in said[0]


async def test_a_killed_store_is_started_again_with_its_data(plan: Plan) -> None:
    store = EmbeddedValkey(plan.settings.data_dir)
    async with supervised(replace(plan, stores=(store,))) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
        client = redis.asyncio.from_url(store.url)
        await client.set("kept", "yes")
        os.kill(running.pid_of("Valkey"), signal.SIGKILL)
        await eventually(lambda: "Valkey is back after" in running.output.getvalue())
        assert await client.get("kept") == b"yes"
        await client.aclose()


async def test_errors_in_a_log_reach_the_console(plan: Plan) -> None:
    async with supervised(plan) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
        with (plan.settings.data_dir / "logs" / "auth.log").open("a") as log_file:
            log_file.write("12:00 [error    ] the_disk_is_slow\n12:00 [info     ] all_is_well\n")
        await eventually(lambda: "the_disk_is_slow" in running.output.getvalue())
    assert "all_is_well" not in running.output.getvalue()


async def test_a_service_that_does_not_end_is_killed(plan: Plan) -> None:
    async with supervised(fake_system.stubborn(plan)) as running:
        await eventually(lambda: "ready in" in running.output.getvalue())
    assert "engine did not end within" in running.output.getvalue()
    assert running.task.result() == 0


async def test_a_service_that_cannot_start_fails_the_start_with_its_last_words(plan: Plan) -> None:
    broken = python_command("-c", "raise SystemExit('no rights to the vault')")
    wave = tuple(
        replace(spec, command=broken) if spec.name == "auth" else spec for spec in plan.waves[0]
    )
    async with supervised(replace(plan, waves=(wave, *plan.waves[1:]))) as running:
        assert await running.task == 1
    assert "auth does not start: no rights to the vault" in running.output.getvalue()


async def test_a_stop_during_the_start_leaves_nothing(plan: Plan) -> None:
    never = replace(plan.waves[1][0], probe=Probe("tcp", "127.0.0.1:1"))
    async with supervised(replace(plan, waves=(plan.waves[0], (never,)))) as running:
        await eventually(lambda: "gateway" in str(state.read_state(running.data_dir)))
    assert running.task.result() == 0
    assert "ready in" not in running.output.getvalue()


async def test_a_second_start_on_the_same_data_is_refused(plan: Plan) -> None:
    async with supervised(plan) as first:
        await eventually(lambda: "ready in" in first.output.getvalue())
        second = fake_system.make_plan(plan.settings.data_dir, free_ports(PORTS))
        async with supervised(second) as refused:
            assert await refused.task == 1
        assert "already runs on" in refused.output.getvalue()
        assert f"(process {os.getpid()})" in refused.output.getvalue()
        await assert_shown_healthy(plan.settings.data_dir)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_no_process_survives_the_supervisor(short_dir: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-u", "-m", "tests.ops.fake_system", str(short_dir)]
    command.append(str(free_ports(PORTS)))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as supervisor:
        assert supervisor.stdout is not None
        for line in supervisor.stdout:
            if "ready in" in line:
                break
        assert len(processes_of(short_dir)) == 1 + len(fake_system.NAMES)
        supervisor.send_signal(how)
        supervisor.communicate()
    assert supervisor.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    await eventually(lambda: processes_of(short_dir) == [])
