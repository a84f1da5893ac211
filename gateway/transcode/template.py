"""Path templates of `google.api.http`: `/v1/{name=shelves/*/books/**}:verb`.

Grammar (google/api/http.proto):

    Template = "/" Segments [ Verb ] ;
    Segments = Segment { "/" Segment } ;
    Segment  = "*" | "**" | LITERAL | Variable ;
    Variable = "{" FieldPath [ "=" Segments ] "}" ;
    FieldPath = IDENT { "." IDENT } ;
    Verb     = ":" LITERAL ;
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_LITERAL = re.compile(r"[A-Za-z0-9._~!$&'()+,;=@%-]+")
_FIELD_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
ONE, MANY = "*", "**"


class TemplateError(ValueError):
    """A path template that breaks the grammar."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A captured part of the path: segments `start` to `end` (the end of the path when None)."""

    field_path: tuple[str, ...]
    start: int
    end: int | None
    # More than one segment, or maybe more: slashes inside stay as they were written.
    multi: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; `segments` are literals, `*` or (only at the end) `**`."""

    text: str
    segments: tuple[str, ...]
    variables: tuple[Variable, ...]
    verb: str

    @property
    def is_literal(self) -> bool:
        """Whether it fits one path alone, which is its text."""
        return not self.variables and not {ONE, MANY} & set(self.segments)

    def capture(self, segments: list[str]) -> list[tuple[tuple[str, ...], str]]:
        """(field path, decoded text) of each variable, from the raw segments of a path.

        Raises `UnicodeDecodeError` when an escape is not UTF-8.
        """
        return [(v.field_path, _decode(segments[v.start : v.end], v.multi)) for v in self.variables]


def parse_template(text: str) -> Template:
    """Parse a template; raises `TemplateError` saying what is wrong with it."""
    if not text.startswith("/"):
        raise TemplateError(f"{text!r}: must begin with a slash")
    segments: list[str] = []
    variables: list[Variable] = []
    path, verb = _split_verb(text)
    for part in _split(path[1:], text):
        if not part.startswith("{"):
            segments.append(_segment(part, text))
            continue
        if not part.endswith("}"):
            raise TemplateError(f"{text!r}: {part!r} lacks its closing brace")
        name, _, pattern = part[1:-1].partition("=")
        if not _FIELD_PATH.fullmatch(name):
            raise TemplateError(f"{text!r}: {name!r} is not a field path")
        if "{" in pattern:
            raise TemplateError(f"{text!r}: variables cannot be nested")
        start = len(segments)
        parts = [_segment(inner, text) for inner in (pattern or ONE).split("/")]
        segments += parts
        variables.append(
            Variable(
                field_path=tuple(name.split(".")),
                start=start,
                end=None if parts[-1] == MANY else len(segments),
                multi=len(parts) > 1 or parts[-1] == MANY,
            )
        )
    if MANY in segments[:-1]:
        raise TemplateError(f"{text!r}: ** can only stand at the end")
    names = [variable.field_path for variable in variables]
    if len(set(names)) != len(names):
        raise TemplateError(f"{text!r}: a field is captured twice")
    return Template(text, tuple(segments), tuple(variables), verb)


def _split_verb(text: str) -> tuple[str, str]:
    # A colon inside braces would belong to a variable's pattern; there is none in the grammar.
    cut = max(text.rfind("/"), text.rfind("}"))
    colon = text.find(":", cut)
    if colon < 0:
        return text, ""
    verb = text[colon + 1 :]
    if not _LITERAL.fullmatch(verb):
        raise TemplateError(f"{text!r}: {verb!r} is not a verb")
    return text[:colon], verb


def _split(path: str, text: str) -> list[str]:
    """Cut at slashes outside of braces."""
    parts, depth, current = [], 0, ""
    for character in path:
        if character == "/" and depth == 0:
            parts.append(current)
            current = ""
            continue
        depth += (character == "{") - (character == "}")
        current += character
    if depth:
        raise TemplateError(f"{text!r}: unbalanced braces")
    return [*parts, current]


def _segment(part: str, text: str) -> str:
    if part not in (ONE, MANY) and not _LITERAL.fullmatch(part):
        raise TemplateError(f"{text!r}: {part!r} is not a segment")
    return part


def _decode(segments: list[str], multi: bool) -> str:
    if not multi:
        return unquote(segments[0], errors="strict")
    # A slash that was written as an escape must not look like a separator afterwards.
    return "/".join(
        unquote(re.sub("%2f", "%252F", segment, flags=re.IGNORECASE), errors="strict")
        for segment in segments
    )
