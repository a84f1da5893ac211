"""Start a program that ends when its starter does: `tether.py PID SIGNAL UID GID COMMAND...`.

A supervisor that is killed with SIGKILL cannot stop its children, so the kernel is asked to. It
forgets that wish when a process changes its user, which is why this small program drops privileges
first (UID and GID `-1` keep them), then asks, then becomes the command. Standard library only: it
runs without site-packages to start quickly.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(signal_number: int, parent_pid: int) -> None:
    """Have the kernel send `signal_number` to this process when process `parent_pid` ends.

    Only Linux can; elsewhere the next start finds what was left behind. Exits when the parent is
    gone already, since nothing would then ever end this process.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)


def prefix(signal_number: int, *, uid: int = -1, gid: int = -1) -> list[str]:
    """What to put before a command so that it runs tethered to this process."""
    words = (os.getpid(), int(signal_number), uid, gid)
    return [sys.executable, "-I", "-S", __file__, *map(str, words)]


def main(arguments: list[str]) -> None:
    """Become the command; never returns."""
    parent_pid, signal_number, uid, gid = (int(text) for text in arguments[:4])
    command = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    end_with_parent(signal_number, parent_pid)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
