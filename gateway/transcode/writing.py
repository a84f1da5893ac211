"""Messages -> JSON data as proto3 JSON has them, by a function made once per message type.

The library's own writer looks at every descriptor again for every message, which is most of what an
answer costs. What it says is what this says; well-known types are left to it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

Convert = Callable[[Any], Any]
Write = Callable[[Any], dict[str, Any]]

_TEXT_INTEGERS = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
_SECOND = 1_000_000_000
_writers: dict[Descriptor, Write] = {}


def to_dict(message: Message) -> dict[str, Any]:
    """A message as JSON data, with the fields that have their default value and no presence."""
    descriptor = cast(Descriptor, message.DESCRIPTOR)
    write = _writers.get(descriptor)
    if write is None:
        write = _writers[descriptor] = _writer(descriptor)
    return write(message)


def _by_library(message: Message) -> Any:
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _is_well_known(descriptor: Descriptor) -> bool:
    return descriptor.full_name.startswith("google.protobuf.")


def _writer(descriptor: Descriptor) -> Write:
    """A function that knows beforehand what to do with each field, and asks no descriptor."""
    if _is_well_known(descriptor):
        return _by_library
    json_names = [field.json_name for field in descriptor.fields]
    names = [field.name for field in descriptor.fields]
    # All values by one call; of a single name the library's getter gives no tuple.
    values: Callable[[Any], Iterable[Any]] = (
        attrgetter(*names)
        if len(names) > 1
        else lambda message: map(message.__getattribute__, names)
    )
    converted = [
        (field.json_name, convert)
        for field in descriptor.fields
        if not field.has_presence and (convert := _converter(field)) is not None
    ]
    # Those that can be absent; what is absent is not looked into.
    optional = [
        (field.name, field.json_name, _converter(field) or _same)
        for field in descriptor.fields
        if field.has_presence
    ]

    def write(message: Any) -> dict[str, Any]:
        data = dict(zip(json_names, values(message), strict=True))
        for json_name, convert in converted:
            data[json_name] = convert(data[json_name])
        for name, json_name, convert in optional:
            if message.HasField(name):
                data[json_name] = convert(data[json_name])
            else:
                del data[json_name]
        return data

    return write


def _converter(field: FieldDescriptor) -> Convert | None:
    """What makes JSON of a field's value; None when it is JSON already."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map(field.message_type)
    convert = _convert(field)
    if field.is_repeated:
        return list if convert is None else lambda values: [convert(value) for value in values]
    return convert


def _map(entry: Descriptor) -> Convert:
    convert = _convert(entry.fields_by_name["value"]) or _same
    of_bool = entry.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_BOOL
    return lambda values: {
        str(key).lower() if of_bool else str(key): convert(value) for key, value in values.items()
    }


def _convert(field: FieldDescriptor) -> Convert | None:
    """What makes JSON of one value."""
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return _timestamp
        if field.message_type.full_name == "google.protobuf.Duration":
            return _duration
        return _by_library if _is_well_known(field.message_type) else to_dict
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.cpp_type in _TEXT_INTEGERS:
        return str
    if field.cpp_type in _FLOATS:
        return _float(field)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return None


# Much of what is answered at one time happened at one time.
@lru_cache(maxsize=4096)
def _time_text(seconds: int, nanos: int) -> str:
    if nanos == 0:
        return f"{_whole_second(seconds)}Z"
    if nanos % 1_000_000 == 0:
        return f"{_whole_second(seconds)}.{nanos // 1_000_000:03d}Z"
    if nanos % 1000 == 0:
        return f"{_whole_second(seconds)}.{nanos // 1000:06d}Z"
    return f"{_whole_second(seconds)}.{nanos:09d}Z"


@lru_cache(maxsize=1024)
def _whole_second(seconds: int) -> str:
    """`2026-01-31T12:00:00`; raises `ValueError` for what no calendar has."""
    return Timestamp(seconds=seconds).ToJsonString()[:-1]


def _timestamp(value: Any) -> str:
    nanos = value.nanos
    if not 0 <= nanos < _SECOND:
        return cast(str, value.ToJsonString())
    return _time_text(value.seconds, nanos)


def _duration(value: Any) -> str:
    return cast(str, value.ToJsonString())


def _same(value: Any) -> Any:
    return value


def _enum(enum: EnumDescriptor) -> Convert:
    if enum.full_name == "google.protobuf.NullValue":
        return lambda _: None
    return _Names({value.number: value.name for value in reversed(enum.values)}).__getitem__


class _Names(dict[int, str]):
    """Number -> name of an enum's value."""

    def __missing__(self, number: int) -> Any:
        # A number that a newer service knows and we do not goes out as it is.
        return number


def _float(field: FieldDescriptor) -> Convert:
    """Infinities, nan and the shortest text of 32 bits are the library's to say."""
    assert field.containing_type is not None
    of_type, name, json_name = field.containing_type, field.name, field.json_name

    def convert(value: float) -> Any:
        holder: Any = GetMessageClass(of_type)()
        if field.is_repeated:
            getattr(holder, name).append(value)
            return _by_library(holder)[json_name][0]
        setattr(holder, name, value)
        return _by_library(holder)[json_name]

    return convert
