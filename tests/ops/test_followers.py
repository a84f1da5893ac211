"""A system with two engines: the one that leads may be killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mesh.config import load_settings
from ops.plan import make_plan
from tests.ops.test_exchange import is_ready, pids, tidebook
from tests.support import eventually, running_exchange
from tests.support.exchange import PORT_OFFSETS
from tests.support.ports import free_ports


def test_a_follower_has_its_own_ports_and_everyone_knows_both(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, engine_port=40052, engine_followers=1, bots=False)
    plan = make_plan(settings)
    assert plan.settings.engine_address == "127.0.0.1:40152,127.0.0.1:40162"
    specs = {spec.name: spec for wave in plan.waves for spec in wave}
    assert specs["engine"].environment["TIDEBOOK_ENGINE_PORT"] == "40052"
    assert specs["engine-2"].environment["TIDEBOOK_ENGINE_PORT"] == "40062"
    addresses = {spec.environment["TIDEBOOK_ENGINE_ADDRESS"] for spec in specs.values()}
    assert addresses == {plan.settings.engine_address}
    assert {40062, 40162} <= {listener.port for listener in plan.listeners}


@pytest.mark.timeout(240)
async def test_a_killed_leader_is_replaced_by_its_follower(short_dir: Path) -> None:
    async with running_exchange(
        short_dir,
        # The follower is ten ports above the engine.
        port_base=free_ports((*PORT_OFFSETS, 13, 113)),
        TIDEBOOK_BOTS="false",
        TIDEBOOK_ENGINE_FOLLOWERS="1",
    ) as exchange:
        assert await is_ready(exchange)
        before = pids(exchange)
        assert tidebook(exchange, "status").returncode == 0
        logs = {n: exchange.data_dir / "logs" / f"{n}.log" for n in ("engine", "engine-2")}
        leader, follower = logs if "engine_writes" in logs["engine"].read_text() else [*logs][::-1]
        assert "engine_writes" not in logs[follower].read_text()
        os.kill(before[leader], signal.SIGKILL)
        await eventually(lambda: "engine_writes" in logs[follower].read_text())
        await eventually(lambda: is_ready(exchange))
        await eventually(lambda: tidebook(exchange, "status").returncode == 0, timeout_s=60)
        after = pids(exchange)
        assert after[leader] != before[leader] and after[follower] == before[follower]
