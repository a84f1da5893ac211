"""The wire format of protobuf, which `wire` and `wire_answers` write. Compiled with the core."""

from __future__ import annotations

from librt.strings import BytesWriter
from mypy_extensions import i64, u8


def write_varint(out: BytesWriter, n: i64) -> None:
    """Seven bits a byte, the lowest first; a negative number as its 64 bits."""
    left: i64 = 9
    while (n > 127 or n < 0) and left:
        out.append(u8(n & 127 | 128))
        n >>= 7
        left -= 1
    out.append(u8(n & 1 if left == 0 else n))


def write_number(out: BytesWriter, field: i64, n: i64) -> None:
    """A number that is not zero: any of int32, int64, uint32, uint64, bool, enum."""
    if n != 0:
        write_varint(out, field << 3)
        write_varint(out, n)


def write_signed(out: BytesWriter, field: i64, n: i64) -> None:
    """A sint64: zigzag, so that small negative numbers are short."""
    write_number(out, field, n << 1 if n >= 0 else ~(n << 1))


def write_text(out: BytesWriter, field: i64, text: str) -> None:
    """A text that is not empty."""
    if text:
        write_bytes(out, field, text.encode())


def write_bytes(out: BytesWriter, field: i64, data: bytes) -> None:
    """Bytes, if there are any."""
    if data:
        write_varint(out, field << 3 | 2)
        write_varint(out, len(data))
        out.write(data)


def open_message(out: BytesWriter, key: i64) -> i64:
    """Begin a message inside; returns where its length goes, for which one byte is left."""
    write_varint(out, key)
    out.append(0)
    return len(out) - 1


def close_message(out: BytesWriter, at: i64) -> None:
    """End a message inside."""
    size: i64 = len(out) - at - 1
    if size < 128:
        out[at] = u8(size)
        return
    inside = out.getvalue()[at + 1 :]
    out.truncate(at)
    write_varint(out, size)
    out.write(inside)
