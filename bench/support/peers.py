"""Installs published peers on demand, each version into an environment of its own that is kept."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".build" / "peers"


@dataclass(frozen=True)
class Peer:
    """A published book: what to install, and the oldest Python (3.x) that it runs on."""

    name: str
    packages: tuple[str, ...]
    python_minor: int


PEERS = (
    # Without its dependencies: they are for its simulations, and among them is all of torch.
    Peer("lumina-lob", ("lumina-lob==0.1.4",), 11),
    Peer(
        "matching-engine",
        ("matching-engine==0.1.1", "msgspec==0.22.0", "sortedcontainers==2.4.0"),
        12,
    ),
)

# Its gateway, with what its extra of that name asked for on the day it was looked at.
GATEWAY_PEER = Peer(
    "matching-engine-gateway",
    (
        "matching-engine==0.1.1",
        "msgspec==0.22.0",
        "sortedcontainers==2.4.0",
        "annotated-doc==0.0.7",
        "annotated-types==0.8.0",
        "anyio==4.16.0",
        "click==8.5.1",
        "fastapi==0.165.0",
        "h11==0.16.0",
        "httptools==0.9.0",
        "idna==3.20",
        "opentelemetry-api==1.45.2",
        "pydantic==2.14.3",
        "pydantic-core==2.50.4",
        "starlette==1.10.0",
        "typing-extensions==4.16.0",
        "typing-inspection==0.4.5",
        "uvicorn==0.54.0",
        "websockets==17.4",
    ),
    12,
)


class NotAvailable(Exception):
    """The peer cannot be installed here; the message says why."""


def interpreter(peer: Peer) -> Path:
    """A Python that has the peer, installed now if it was not before. Raises `NotAvailable`."""
    folder = FOLDER / f"{peer.name}-{peer.packages[0].partition('==')[2]}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    base = _python(peer.python_minor)
    environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
    for command in (
        ("venv", "--quiet", "--clear", "--python", base, str(folder)),
        ("pip", "install", "--quiet", "--no-deps", *peer.packages),
    ):
        try:
            done = subprocess.run(
                [uv, *command], env=environment, capture_output=True, text=True, timeout=300
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotAvailable(str(error)) from error
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise NotAvailable(said[-1].strip() if said else f"uv {command[0]} failed")
    (folder / "complete").touch()
    return python


def _python(minor: int) -> str:
    """The newest Python on this machine that is new enough, pyenv's included."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for newest in range(14, minor - 1, -1):
        name = f"python3.{newest}"
        for found in (shutil.which(name), *glob.glob(f"{pyenv}/versions/*/bin/{name}")):
            # What pyenv puts on the PATH may be a name without a Python behind it.
            if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
                return found
    raise NotAvailable(f"there is no Python 3.{minor} or newer")
