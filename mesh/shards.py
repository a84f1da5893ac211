"""Which engine shard has which markets, and where its engines are: `TIDEBOOK_SHARDS`.

A shard is one engine group with a log, markets and trading balances of its own. The setting names
them as `0=BTC_*,ETH_USDC;1=*`: a name may end in `*`, the longest that fits a market has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernel.markets import Market
from kernel.reasons import Reason, Refused
from kernel.shards import SHARDS_MAX


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The shards of a system. `patterns` are (beginning or name, whole name, shard)."""

    numbers: tuple[int, ...]
    patterns: tuple[tuple[str, bool, int], ...]
    endpoints: Mapping[int, tuple[str, ...]]

    @classmethod
    def parse(cls, text: str, endpoints: Mapping[int, tuple[str, ...]] | None = None) -> ShardMap:
        """The setting `shards`; empty is one shard with every market. Raises `ValueError`."""
        patterns: list[tuple[str, bool, int]] = []
        numbers: list[int] = []
        for number, names in by_shard(text or "0=*").items():
            numbers.append(number)
            for name in (part.strip() for part in names.split(",")):
                beginning = name.removesuffix("*")
                if not name or "*" in beginning:
                    raise ValueError(f"{name!r} is neither a market nor a beginning and *")
                patterns.append((beginning, name == beginning, number))
        if numbers != list(range(len(numbers))) or len(numbers) > SHARDS_MAX:
            raise ValueError(f"shards are numbered 0, 1, 2 and so on, {SHARDS_MAX} at most")
        names_only = [pattern[:2] for pattern in patterns]
        if len(set(names_only)) != len(names_only):
            raise ValueError("a market must be of one shard only")
        if ("", False) not in names_only:
            raise ValueError("one shard must have * : all markets that no other has")
        # A whole name goes before a beginning, a longer beginning before a shorter one.
        patterns.sort(key=lambda pattern: (pattern[1], len(pattern[0])), reverse=True)
        return cls(tuple(numbers), tuple(patterns), endpoints or {})

    def __len__(self) -> int:
        return len(self.numbers)

    def of_market(self, name: str) -> int:
        """The shard that has a market, or would have it."""
        for beginning, whole, number in self.patterns:
            if name == beginning or (not whole and name.startswith(beginning)):
                return number
        raise AssertionError("the last pattern fits every name")

    def markets_of(self, shard: int, markets: Iterable[Market]) -> tuple[Market, ...]:
        """Those of `markets` that a shard has."""
        return tuple(market for market in markets if self.of_market(market.name) == shard)

    def check(self, shard: int, field: str = "shard") -> None:
        """Raise `Refused(NOT_FOUND)` for a shard that does not exist."""
        if shard not in self.numbers:
            raise Refused(Reason.NOT_FOUND, f"there is no shard {shard}", field=field)

    def elsewhere(self, shard: int, field: str) -> Refused:
        """The refusal of what another shard has: it says which, and where that is."""
        details: dict[str, object] = {"shard": shard}
        if shard in self.endpoints:
            details["endpoints"] = ",".join(self.endpoints[shard])
        return Refused(Reason.WRONG_SHARD, f"shard {shard} has it", field=field, **details)


def by_shard(text: str) -> dict[int, str]:
    """`0=a;1=b` -> `{0: "a", 1: "b"}`. Raises `ValueError`."""
    found: dict[int, str] = {}
    for part in text.split(";"):
        number, equals, value = part.partition("=")
        if not equals or not number.strip().isdecimal():
            raise ValueError(f"{part.strip()!r} is not NUMBER=...")
        shard = int(number)
        if shard in found:
            raise ValueError(f"shard {shard} is named twice")
        found[shard] = value.strip()
    return found
