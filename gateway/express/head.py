"""The head of a request, split into what a client repeats and what it changes.

This is no parser of HTTP: whoever wants to know what the repeated lines mean asks the library once.
What is changed must be of the plainest form, and anything else is no head for the express lane.
"""

from __future__ import annotations

import re
from typing import NamedTuple

END: bytes = b"\r\n\r\n"
# Larger heads are not worth to be remembered, and no line of a smaller one is too long for the
# library; nor are so many lines too many.
_HEAD_MAX = 4096
_LINES_MAX = 100
# A fragment, a host or an escape in another form than these is the library's to read.
_REQUEST_LINE = re.compile(
    rb"([A-Z]{3,7}) (/[A-Za-z0-9._~:/%-]*)(?:\?([A-Za-z0-9._~:/%&=+-]*))? HTTP/1\.1"
)
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,8}")
_WORD = re.compile(rb"[!-~]{0,200}")
# A line that begins so goes on with the one before.
_FOLDED = frozenset({b" ", b"\t"})
_LENGTH_NAME, _TRACE_NAME, _ID_NAME = b"content-length", b"traceparent", b"x-request-id"
_CHANGING = frozenset({_LENGTH_NAME, _TRACE_NAME, _ID_NAME})


class Head(NamedTuple):
    """One head. `repeated` are its other lines as they came; `length` is that of the body, bytes.

    A header that is not there is empty.
    """

    method: str
    path: str
    query: str
    repeated: bytes
    length: int
    traceparent: str
    request_id: str


def read_head(head: bytes) -> Head | None:
    """Split a head, without the empty line at its end; None for one that is not plain."""
    if len(head) > _HEAD_MAX:
        return None
    first, *lines = head.split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if request is None or len(lines) > _LINES_MAX:
        return None
    repeated: list[bytes] = []
    changing: dict[bytes, bytes] = {}
    for line in lines:
        if line[:1] in _FOLDED:
            return None
        name, colon, value = line.partition(b":")
        name = name.lower()
        if name not in _CHANGING:
            repeated.append(line)
            continue
        value = value.strip(b" \t")
        if not colon or name in changing or _WORD.fullmatch(value) is None:
            return None
        changing[name] = value
    length = changing.get(_LENGTH_NAME, b"0")
    if _LENGTH.fullmatch(length) is None:
        return None
    method, path, query = request.groups(b"")
    return Head(
        method.decode(),
        path.decode(),
        query.decode(),
        b"\r\n".join(repeated),
        int(length),
        changing.get(_TRACE_NAME, b"").decode(),
        changing.get(_ID_NAME, b"").decode(),
    )
