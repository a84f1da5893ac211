"""How benchmarks speak: results for machines to stdout, progress for people to stderr."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def emit(**values: object) -> None:
    """A result for the machine that compares: one JSON object."""
    print(json.dumps(values), flush=True)


def milliseconds(seconds: Sequence[float], percentile: int) -> float:
    """A percentile (1 to 99) of times, in milliseconds; their sum where there are too few."""
    if len(seconds) < 2:
        return round(sum(seconds) * 1000, 2)
    return round(statistics.quantiles(seconds, n=100)[percentile - 1] * 1000, 2)
