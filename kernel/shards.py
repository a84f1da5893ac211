"""Engine shards: how many there can be, and whose an id is.

Order and CFD ids carry their shard's number from bit 48 up, so an id alone says where it is asked
about. The ids of shard 0 are 1, 2, 3 and so on, and all ids stay below 2**53: a JSON number.
"""

from __future__ import annotations

SHARDS_MAX = 32
ID_BITS = 48


def shard_of(number: int) -> int:
    """The shard that gave out an order or CFD id."""
    return number >> ID_BITS


def ids_before(shard: int) -> int:
    """What the ids of a shard come after."""
    return shard << ID_BITS
