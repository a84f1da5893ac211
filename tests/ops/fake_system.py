"""A system of stand-in services under the real supervisor.

`python -m tests.ops.fake_system DATA_DIR PORT` runs it as `tidebook up` would.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ops.plan import Plan
from ops.probes import Probe
from ops.processes import ChildSpec, python_command
from ops.supervisor import supervise
from tests.builders import make_settings
from tests.ops import fake_service

NAMES = ("auth", "settlement", "engine", "marketdata", "gateway")


def make_plan(data_dir: Path, first_port: int) -> Plan:
    """Four services and a gateway after them, no stores."""
    specs = [_spec(data_dir, name, first_port + n) for n, name in enumerate(NAMES)]
    return Plan(
        settings=make_settings(data_dir, drain_seconds=1.0),
        stores=(),
        waves=(tuple(specs[:-1]), (specs[-1],)),
    )


def stubborn(plan: Plan) -> Plan:
    """The same system with an engine that does not end when told to."""
    wave = tuple(
        replace(child, command=(*child.command, "stubborn")) if child.name == "engine" else child
        for child in plan.waves[0]
    )
    return replace(plan, waves=(wave, *plan.waves[1:]))


def _spec(data_dir: Path, name: str, port: int) -> ChildSpec:
    return ChildSpec(
        name=name,
        command=python_command(fake_service.__file__, str(data_dir), str(port), name),
        environment=dict(os.environ),
        log_path=data_dir / "logs" / f"{name}.log",
        address=f"127.0.0.1:{port}",
        probe=Probe("http", f"http://127.0.0.1:{port}/"),
    )


if __name__ == "__main__":
    plan = make_plan(Path(sys.argv[1]), int(sys.argv[2]))
    raise SystemExit(asyncio.run(supervise(plan, Console())))
