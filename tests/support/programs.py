"""Programs that a test runs to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path


async def output_of(
    *command: str,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> tuple[int, str]:
    """Run a program: (exit code, all that it said). Killed after `seconds`: `TimeoutError`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        cwd=directory,
    )
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()
