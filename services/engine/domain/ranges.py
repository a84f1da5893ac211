"""A set of ids that mostly rise by one."""

from __future__ import annotations

from bisect import bisect_right


class IdRanges:
    """Ids that were used, kept for ever as ranges: ids without gaps cost nothing to remember."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        # Range i is starts[i]..ends[i], both inside; ranges are apart and rise.
        self.starts: list[int] = []
        self.ends: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.starts, number) - 1
        return at >= 0 and number <= self.ends[at]

    def add(self, number: int) -> None:
        """Add an id that is not in the set."""
        at = bisect_right(self.starts, number)
        joins_left = at > 0 and self.ends[at - 1] == number - 1
        joins_right = at < len(self.starts) and self.starts[at] == number + 1
        if joins_left and joins_right:
            self.ends[at - 1] = self.ends.pop(at)
            del self.starts[at]
        elif joins_left:
            self.ends[at - 1] = number
        elif joins_right:
            self.starts[at] = number
        else:
            self.starts.insert(at, number)
            self.ends.insert(at, number)
