"""Books as their readers see them: so many levels a side, changes between two, and a checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from services.marketdata.domain.book import Level

CHECKSUM_LEVELS = 25


def changed_levels(before: Sequence[Level], after: Sequence[Level]) -> list[Level]:
    """What turns one side `before` into `after`, best first as in `after`; 0 lots remove a level.

    Both are best first. Levels that only left because better ones came are removed like any other,
    so a reader that applies the changes has exactly the levels of `after`.
    """
    old = dict(before)
    changes = [level for level in after if old.pop(level[0], None) != level[1]]
    changes += [(price, 0) for price in old]
    return changes


def checksum(bids: Sequence[tuple[str, str]], asks: Sequence[tuple[str, str]]) -> int:
    """Signed CRC-32 of `bid:quantity:ask:quantity:...` over the best 25 levels, alternating.

    Prices and quantities are the texts that are sent. A side that is shorter is skipped where it
    has ended (the rule of OKX's public books).
    """
    parts: list[str] = []
    for level in range(CHECKSUM_LEVELS):
        for side in (bids, asks):
            if level < len(side):
                parts += side[level]
    crc = zlib.crc32(":".join(parts).encode())
    return crc - (1 << 32) if crc >= 1 << 31 else crc
