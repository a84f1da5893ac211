"""Splitting a head: nothing is lost, nothing is guessed, no bytes are too odd."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.express.head import Head, read_head

FIRST = b"POST /v1/orders HTTP/1.1"
HOST = b"Host: a"
LENGTH, TRACE, REQUEST_ID = b"content-length", b"traceparent", b"x-request-id"

names = st.text("abcXYZ-", min_size=1, max_size=8).map(str.encode)
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
spaces = st.sampled_from((b"", b" ", b"\t", b"  "))


def join(*lines: bytes) -> bytes:
    return b"\r\n".join(lines)


@given(
    st.lists(st.tuples(names, values)),
    st.fixed_dictionaries(
        {},
        optional={
            LENGTH: st.integers(0, 10**9 - 1).map(lambda n: str(n).encode()),
            TRACE: values,
            REQUEST_ID: values,
        },
    ),
    spaces,
    spaces,
    st.randoms(use_true_random=False),
)
def test_a_head_is_all_of_what_was_read(
    repeated: list[tuple[bytes, bytes]],
    changing: dict[bytes, bytes],
    before: bytes,
    after: bytes,
    random: Random,
) -> None:
    """Wherever the lines stand that change, and however their names are written."""
    lines = [name + b": " + value for name, value in repeated]
    mixed = list(lines)
    for name, value in changing.items():
        at = random.randint(0, len(mixed))
        shown = name.title() if at % 2 else name
        mixed.insert(at, shown + b":" + before + value + after)
    head = read_head(join(FIRST, *mixed))
    order = [line for line in mixed if line.partition(b":")[0].lower() not in changing]
    assert order == lines
    assert head == Head(
        "POST",
        "/v1/orders",
        "",
        join(*lines),
        int(changing.get(LENGTH, b"0")),
        changing.get(TRACE, b"").decode(),
        changing.get(REQUEST_ID, b"").decode(),
    )


lines_of_all_kinds = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        (FIRST, HOST, b"Content-Length: 5", b"traceparent: a", b"X-Request-Id: b", b"")
    ),
)


@given(
    st.one_of(st.binary(max_size=200), st.lists(lines_of_all_kinds).map(lambda lines: join(*lines)))
)
def test_any_bytes_are_split_or_left(data: bytes) -> None:
    """What is split has all its lines, in order, but for the three that change."""
    head = read_head(data)
    if head is None:
        return
    first, *lines = data.split(b"\r\n")
    query = f"?{head.query}" if b"?" in first else ""
    assert first == f"{head.method} {head.path}{query} HTTP/1.1".encode()
    changing = {LENGTH, TRACE, REQUEST_ID}
    kept = [line for line in lines if line.partition(b":")[0].lower() not in changing]
    assert join(*kept) == head.repeated
    assert len(lines) - len(kept) <= 3
    assert head.length >= 0
    assert f"{head.traceparent}{head.request_id}".isascii()


@pytest.mark.parametrize(
    "lines",
    [
        [b"POST /v1/orders HTTP/1.0"],
        [b"POST /v1/orders HTTP/1.1 "],
        [b"post /v1/orders HTTP/1.1"],
        [b"POST v1/orders HTTP/1.1"],
        [b"POST http://a/v1/orders HTTP/1.1"],
        [b"POST /v1/orders#a HTTP/1.1"],
        [b"POST /v1/orders\xff HTTP/1.1"],
        [b"POST /v1/orders?a=b?c HTTP/1.1"],
        [b""],
        [FIRST, b" folded"],
        [FIRST, b"\tfolded"],
        [FIRST, b"Content-Length"],
        [FIRST, b"traceparent"],
        [FIRST, b"X-Request-Id"],
        [FIRST, b"Content-Length:"],
        [FIRST, b"Content-Length: -1"],
        [FIRST, b"Content-Length: +1"],
        [FIRST, b"Content-Length: 01"],
        [FIRST, b"Content-Length: 0x1"],
        [FIRST, b"Content-Length: 1 1"],
        [FIRST, b"Content-Length: 1\n"],
        [FIRST, b"Content-Length: 1_0"],
        [FIRST, b"Content-Length: \xd9\xa1"],
        [FIRST, b"Content-Length: 9999999999"],
        [FIRST, b"Content-Length: 1", b"content-length: 1"],
        [FIRST, b"traceparent: a", b"Traceparent: a"],
        [FIRST, b"X-Request-Id: a b"],
        [FIRST, b"X-Request-Id: " + b"a" * 201],
        [FIRST, b"X: " + b"a" * 5000],
        [FIRST, *[b"X: 1"] * 101],
    ],
)
def test_what_is_not_plain_is_left(lines: list[bytes]) -> None:
    assert read_head(join(*lines, HOST)) is None
