"""A load on a running order path, and what each part of it costs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.support.order_load import Plan, Result
from tests.support.order_path import ROOT

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


async def send(
    plan: Plan, pids: Mapping[str, Sequence[int]] | None = None
) -> tuple[Result, dict[str, Any]]:
    """Run a load: what was answered, and that with the CPU it cost, as a benchmark reports it."""
    before = {part: sum(map(cpu_seconds, numbers)) for part, numbers in (pids or {}).items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.support.order_load"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    started = time.perf_counter()
    output, _ = await process.communicate(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
    if process.returncode:
        raise SystemExit("the clients have failed")
    result = Result(**json.loads(output))
    lasted = time.perf_counter() - started
    report: dict[str, Any] = {
        "per_second": round(result.answers / result.seconds),
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "answers": result.answers,
        "outcomes": result.outcomes,
    }
    if result.first_failure:
        report["first_failure"] = result.first_failure
    costs = {"client": result.client_cpu_us}
    busiest = result.client_cpu_us
    for part, numbers in (pids or {}).items():
        spent = sum(map(cpu_seconds, numbers)) - before[part]
        costs[part] = spent / max(1, result.total) * 1e6
        busiest = max(busiest, costs[part] / max(1, len(numbers)))
        report[f"{part}_cpu_share"] = round(spent / lasted, 2)
    report |= {f"{part}_cpu_us": round(cost) for part, cost in costs.items()}
    # What two cores that do nothing else could do: all of it on both, or its busiest process alone.
    report["two_cores_per_second"] = round(1e6 / max(busiest, sum(costs.values()) / 2, 1e-3))
    report["load_average"] = os.getloadavg()[0]
    return result, report


def cpu_seconds(pid: int) -> float:
    """CPU that a process and its children have used; 0 where /proc does not say."""
    process = Path(f"/proc/{pid}")
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        children = (process / f"task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
    return own + sum(cpu_seconds(int(child)) for child in children)
