"""The log files of child processes: rotated at start, watched for what a person must know."""

from __future__ import annotations

import re
from pathlib import Path

ROTATE_BYTES = 10 << 20
KEEP = 3
_MOST_LINES = 5
# structlog for people and as JSON.
_SERIOUS = re.compile(r"\[(?:error|critical)\s*\]|\"level\":\s*\"(?:error|critical)\"")


def rotate(path: Path) -> None:
    """Move a file above `ROTATE_BYTES` to `.1`, `.1` to `.2` and so on; `KEEP` old ones stay."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_size < ROTATE_BYTES:
        return
    for number in range(KEEP - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def last_line(path: Path) -> str:
    """The last line that says anything, for a one-line explanation; empty without one."""
    lines = [line.strip() for line in read_from(path, max(0, _size(path) - 4096)).splitlines()]
    return next((line for line in reversed(lines) if line), "")


def read_from(path: Path, offset: int) -> str:
    """What the file holds from `offset` on."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class SeriousLines:
    """The errors that a process adds to its log, a few at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = _size(path)

    def take(self) -> list[str]:
        """New lines of level error or worse, at most `_MOST_LINES` and a count of the others."""
        size = _size(self._path)
        if size <= self._offset:
            self._offset = size
            return []
        complete, newline, _ = read_from(self._path, self._offset).rpartition("\n")
        self._offset += len((complete + newline).encode())
        found = [line for line in complete.splitlines() if _SERIOUS.search(line)]
        if len(found) > _MOST_LINES:
            more = len(found) - _MOST_LINES
            found = [*found[:_MOST_LINES], f"and {more} more in {self._path}"]
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
