"""Counters, gauges and one histogram in Prometheus text form; an observation costs dict updates."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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

    def render(self) -> str:
        """Everything, in text exposition format 0.0.4."""
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
        _labelled(
            lines, "tidebook_http_connections_cut_total", "Connections cut", "reason", self.http_cut
        )
        _labelled(lines, "tidebook_ws_cut_total", "WebSockets cut", "reason", self.ws_cut)
        _labelled(
            lines, "tidebook_rate_limited_total", "Requests refused", "limit", self.rate_limited
        )
        for name, (kind, text, read) in sorted(self._read.items()):
            _head(lines, name, kind, text)
            lines.append(f"{name} {read()}")
        return "\n".join(lines) + "\n"


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    lines.append(f"# HELP {name} {text}")
    lines.append(f"# TYPE {name} {kind}")


def _labelled(lines: list[str], name: str, text: str, label: str, counts: Counter[str]) -> None:
    _head(lines, name, "counter", text)
    lines += [f'{name}{{{label}="{value}"}} {count}' for value, count in sorted(counts.items())]
