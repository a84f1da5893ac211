"""Monthly partitions, made before the first row of a month comes."""

from __future__ import annotations

from services.settlement.store.database import Connection

_DAY_NS = 86_400 * 10**9
_AHEAD_NS = 7 * _DAY_NS


class Months:
    """Which months have their partitions, as far as this process has seen to it."""

    def __init__(self) -> None:
        self._from_ns = self._until_ns = 0

    async def ensure(self, connection: Connection, first_ns: int, last_ns: int) -> None:
        """Have partitions for all times from `first_ns` to `last_ns`, and for the week after.

        Not inside a transaction that writes: this takes locks that others wait for.
        """
        if self._from_ns <= first_ns and last_ns + _DAY_NS < self._until_ns:
            return
        until_ns = first_ns
        while until_ns <= last_ns + _AHEAD_NS:
            until_ns = await connection.fetchval("select ensure_month($1)", until_ns)
        self._from_ns, self._until_ns = first_ns, until_ns
