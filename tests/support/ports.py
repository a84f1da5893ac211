"""Free local TCP ports that parallel test processes do not take from one another."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

# Below the range from which the system picks ports of outgoing connections.
_LOWEST, _HIGHEST = 15_000, 31_000


def _own_range() -> tuple[int, int]:
    """The part of the range that is this worker's: a port that is chosen but not listened on yet
    must not be chosen by another."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (_HIGHEST - _LOWEST) // workers
    return _LOWEST + number * size, _LOWEST + (number + 1) * size


_FIRST, _LAST = _own_range()
_next_port = _FIRST + (os.getpid() * 397) % (_LAST - _FIRST)


def free_port() -> int:
    """One port on 127.0.0.1 that nothing listens on; not handed out twice by this process."""
    return free_ports([0])


def free_ports(offsets: Sequence[int]) -> int:
    """A base port for which every `base + offset` is free on 127.0.0.1."""
    global _next_port
    span = max(offsets) + 1
    for _ in range(2000):
        if _next_port + span > _LAST:
            _next_port = _FIRST
        base = _next_port
        _next_port += span
        if all(_is_free(base + offset) for offset in offsets):
            return base
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
