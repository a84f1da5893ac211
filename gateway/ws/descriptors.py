"""As many open sockets as the gateway is to hold."""

from __future__ import annotations

import resource

import structlog

# What the process needs besides WebSockets: HTTP, gRPC, stores, files.
RESERVED = 256

log = structlog.get_logger()


def room_for(connections: int) -> int:
    """Raise the process's limit of open files for so many connections; how many it will hold.

    Fewer than asked for when the system allows no more: those are then refused with a reason,
    rather than every service of the process being short of sockets.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("open_files_limited", allowed=allowed, wanted=wanted)
    return max(1, min(connections, allowed - RESERVED))
