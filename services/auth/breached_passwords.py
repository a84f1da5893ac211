"""Passwords that were in a breach, looked up in a file that the operator has: a SHA-1 hash a line,
in order, as Have I Been Pwned gives its list away (`HASH:COUNT`; the count is not read).

SHA-1 is how that list is sorted; nothing here is protected by it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

from services.auth.domain.password_rules import normalised

_HEX = 40
_HASH = re.compile(rb"[0-9A-F]{%d}" % _HEX)
# Longer than any line: hash, colon, count and the end of the line.
_LINE_MAX = 128
# So many places of the file are looked at before it is believed.
_SAMPLES = 64
_NOT_HASHES = "it is not one SHA-1 hash a line"


class BadPasswordList(Exception):
    """The operator's file cannot be used; the message says why."""


def open_breached_passwords(path: Path | None) -> BreachedPasswords | None:
    """The operator's list, if there is one. Raises `BadPasswordList`."""
    return None if path is None else BreachedPasswords(path)


class BreachedPasswords:
    """A sorted file of hashes; what is looked for is found with some forty reads and no memory."""

    def __init__(self, path: Path) -> None:
        """Raises `BadPasswordList` for a file that is not there, or not hashes in order."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from None
        self._size = os.fstat(self._file).st_size
        try:
            self._check_order()
        except (BadPasswordList, OSError):
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    async def has(self, password: str) -> bool:
        """Whether the password is listed. Raises `BadPasswordList` when it is no list any more."""
        text = normalised(password).encode()
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().upper().encode()
        return await asyncio.to_thread(self._find, digest)

    def _find(self, wanted: bytes) -> bool:
        # The line, if there is one, begins at `low` or later and before `high`.
        low, high = 0, self._size
        while low < high:
            middle = (low + high) // 2
            start = self._line_after(middle)
            if start >= high:
                high = middle
                continue
            found = self._hash_at(start)
            if found == wanted:
                return True
            if found < wanted:
                low = start + 1
            else:
                high = middle
        return False

    def _line_after(self, offset: int) -> int:
        """Where the first line begins at `offset` or later; the size where none does."""
        if offset == 0:
            return 0
        text = os.pread(self._file, _LINE_MAX, offset - 1)
        end = text.find(b"\n")
        if end < 0 and len(text) == _LINE_MAX:
            raise self._wrong(_NOT_HASHES)
        return self._size if end < 0 else offset + end

    def _hash_at(self, start: int) -> bytes:
        found = os.pread(self._file, _HEX, start).upper()
        if not _HASH.fullmatch(found):
            raise self._wrong(_NOT_HASHES)
        return found

    def _check_order(self) -> None:
        starts = [self._line_after(self._size * at // _SAMPLES) for at in range(_SAMPLES)]
        hashes = [self._hash_at(start) for start in dict.fromkeys(starts) if start < self._size]
        if hashes != sorted(hashes):
            raise self._wrong("its hashes are not in order")
        if not hashes:
            raise self._wrong("it is empty")

    def _wrong(self, why: str) -> BadPasswordList:
        return BadPasswordList(f"TIDEBOOK_BREACHED_PASSWORDS: {self._path}: {why}")
