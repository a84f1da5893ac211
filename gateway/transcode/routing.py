"""Which route a method and path mean.

A trie over path segments: a literal is preferred to `*`, and `*` to `**`, whatever the order in
which routes were added. `x:verb` is looked up as a verb first, then as a segment with a colon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.transcode.errors import NOT_FOUND, UNIMPLEMENTED, TranscodeError
from gateway.transcode.routes import Route
from gateway.transcode.template import MANY, ONE

# Longer paths are nobody's; it also bounds the search.
MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class Match:
    """A route and what its template captured: (field path, text)."""

    route: Route
    captured: list[tuple[tuple[str, ...], str]]


@dataclass(slots=True)
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    one: _Node | None = None
    # verb -> HTTP method -> route; `many` are the routes that go on with ** from here.
    routes: dict[str, dict[str, Route]] = field(default_factory=dict)
    many: dict[str, dict[str, Route]] = field(default_factory=dict)


class Router:
    """Finds routes; raises `ValueError` when two routes want the same method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        # What most requests ask for: nothing fits a path better than the very same text.
        self._literal: dict[tuple[str, str], Match] = {}
        self.routes = tuple(routes)
        for route in self.routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        segments = route.template.segments
        many = segments[-1] == MANY
        for segment in segments[:-1] if many else segments:
            if segment == ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.literals.setdefault(segment, _Node())
        by_verb = node.many if many else node.routes
        by_method = by_verb.setdefault(route.template.verb, {})
        if route.http_method in by_method:
            raise ValueError(
                f"{route.http_method} {route.template.text} is taken by both"
                f" {by_method[route.http_method].rpc_path} and {route.rpc_path}"
            )
        by_method[route.http_method] = route
        if route.template.is_literal:
            self._literal[route.http_method, route.template.text] = Match(route, [])

    def match(self, http_method: str, path: str) -> Match:
        """The route of a request; `path` is raw, still percent-encoded and without the query.

        Raises `TranscodeError`: 404 when no template fits, 405 (with `Allow`) when one does, but
        for other methods; 400 for an escape that is not UTF-8.
        """
        known = self._literal.get((http_method, path))
        if known is not None:
            return known
        segments = path[1:].split("/")
        allowed: set[str] = set()
        if path.startswith("/") and len(segments) <= MAX_SEGMENTS:
            for parts, verb in _readings(segments):
                for by_method in _find(self._root, parts, 0, verb):
                    route = by_method.get(http_method)
                    if route is not None:
                        return Match(route, _capture(route, parts))
                    allowed |= by_method.keys()
        if allowed:
            raise TranscodeError(
                UNIMPLEMENTED,
                f"{http_method} is not possible here",
                http_status=405,
                reason="NOT_IMPLEMENTED",
                headers=(("Allow", ", ".join(sorted(allowed))),),
            )
        raise TranscodeError(NOT_FOUND, "there is nothing here", reason="NOT_FOUND")


def _readings(segments: list[str]) -> Iterator[tuple[list[str], str]]:
    """The path with what follows the last colon taken as a verb, then without."""
    head, colon, verb = segments[-1].rpartition(":")
    if colon:
        yield [*segments[:-1], head], verb
    yield segments, ""


def _find(node: _Node, segments: list[str], at: int, verb: str) -> Iterator[dict[str, Route]]:
    """Routes by method of every template that fits, the most literal first."""
    if at == len(segments):
        if verb in node.routes:
            yield node.routes[verb]
    else:
        literal = node.literals.get(segments[at])
        if literal is not None:
            yield from _find(literal, segments, at + 1, verb)
        # An empty segment is no value for `*`.
        if node.one is not None and segments[at]:
            yield from _find(node.one, segments, at + 1, verb)
    if verb in node.many:
        yield node.many[verb]


def _capture(route: Route, segments: list[str]) -> list[tuple[tuple[str, ...], str]]:
    try:
        return route.template.capture(segments)
    except UnicodeDecodeError as error:
        raise TranscodeError.invalid("the path is not UTF-8") from error
