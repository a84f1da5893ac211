"""Counters, gauges and one histogram in Prometheus text form; an observation costs dict updates."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Sample(NamedTuple):
    """One value of a metric, and the labels that tell it from the others."""

    labels: Mapping[str, str]
    value: int | float


class Family(NamedTuple):
    """A metric: `kind` is "gauge" or "counter"; without samples it is left out."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]


# What is asked at each scrape; it must answer soon, and not raise.
Source = Callable[[], Awaitable[Iterable[Family]]]


class Metrics:
    """The gateway's metrics. Labels must come from bounded sets: route names, never paths."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.http_cut: Counter[str] = Counter()
        self.ws_cut: Counter[str] = Counter()
        self.rate_limited: Counter[str] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        # Name -> (type, help, value).
        self._read: dict[str, tuple[str, str, Callable[[], int]]] = {}
        self._sources: list[Source] = []

    def observe(self, route: str, status: int, seconds: float) -> None:
        """One finished request of a route."""
        self.requests[route, status] += 1
        buckets = self._buckets.get(route)
        if buckets is None:
            buckets = self._buckets[route] = [0] * (len(BUCKETS_SECONDS) + 1)
            self._sums[route] = 0.0
        buckets[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self._sums[route] += seconds

    def gauge(self, name: str, help_text: str, read: Callable[[], int]) -> None:
        """Show what `read` says whenever the metrics are asked for."""
        self._read[name] = ("gauge", help_text, read)

    def counter(self, name: str, help_text: str, read: Callable[[], int]) -> None:
        """The same for what only grows."""
        self._read[name] = ("counter", help_text, read)

    def add_source(self, source: Source) -> None:
        """Show what another part of the system says whenever the metrics are asked for."""
        self._sources.append(source)

    async def render(self) -> str:
        """Everything, in text exposition format 0.0.4."""
        told = await asyncio.gather(*(source() for source in self._sources))
        lines = self._own()
        for family in (family for families in told for family in families):
            _family(lines, family)
        return "\n".join(lines) + "\n"

    def _own(self) -> list[str]:
        lines: list[str] = []
        _head(lines, "tidebook_http_requests_total", "counter", "HTTP requests by route and status")
        for (route, status), count in sorted(self.requests.items()):
            lines.append(
                f'tidebook_http_requests_total{{route="{route}",status="{status}"}} {count}'
            )
        name = "tidebook_http_request_seconds"
        _head(lines, name, "histogram", "Time to answer an HTTP request")
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*BUCKETS_SECONDS, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{route="{route}",le="{bound}"}} {total}')
            lines.append(f'{name}_sum{{route="{route}"}} {self._sums[route]:.6f}')
            lines.append(f'{name}_count{{route="{route}"}} {total}')
        for name, text, label, counts in (
            (
                "tidebook_http_connections_cut_total",
                "Connections cut",
                "reason",
                self.http_cut,
            ),
            ("tidebook_ws_cut_total", "WebSockets cut", "reason", self.ws_cut),
            ("tidebook_rate_limited_total", "Requests refused", "limit", self.rate_limited),
        ):
            _head(lines, name, "counter", text)
            lines += [_line(name, {label: key}, count) for key, count in sorted(counts.items())]
        for name, (kind, text, read) in sorted(self._read.items()):
            _family(lines, Family(name, kind, text, (Sample({}, read()),)))
        return lines


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    lines.append(f"# HELP {name} {text}")
    lines.append(f"# TYPE {name} {kind}")


def _family(lines: list[str], family: Family) -> None:
    samples = [_line(family.name, *sample) for sample in family.samples]
    if samples:
        _head(lines, family.name, family.kind, family.help)
        lines += samples


def _line(name: str, labels: Mapping[str, str], value: int | float) -> str:
    quoted = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{quoted}}} {value}" if quoted else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
