"""Messages -> JSON data as proto3 JSON has them, by a plan made once per message type.

The library's own writer looks at every descriptor again for every message, which is most of what an
answer costs. What it says is what this says; well-known types are left to it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Convert = Callable[[Any], Any]
Step = Callable[[Any, dict[str, Any]], None]

_TEXT_INTEGERS = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
_TIMES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})
_plans: dict[str, list[Step]] = {}


def to_dict(message: Message) -> dict[str, Any]:
    """A message as JSON data, with the fields that have their default value and no presence."""
    descriptor = cast(Descriptor, message.DESCRIPTOR)
    if _is_well_known(descriptor):
        return cast(dict[str, Any], _by_library(message))
    plan = _plans.get(descriptor.full_name)
    if plan is None:
        plan = _plans[descriptor.full_name] = [_step(field) for field in descriptor.fields]
    data: dict[str, Any] = {}
    for step in plan:
        step(message, data)
    return data


def _by_library(message: Message) -> Any:
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _is_well_known(descriptor: Descriptor) -> bool:
    return descriptor.full_name.startswith("google.protobuf.")


def _step(field: FieldDescriptor) -> Step:
    name, json_name = field.name, field.json_name
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _map_step(field)
    convert = _convert(field)
    if field.is_repeated:

        def repeated(message: Any, data: dict[str, Any]) -> None:
            data[json_name] = [convert(value) for value in getattr(message, name)]

        return repeated
    if field.has_presence:

        def present(message: Any, data: dict[str, Any]) -> None:
            if message.HasField(name):
                data[json_name] = convert(getattr(message, name))

        return present

    def always(message: Any, data: dict[str, Any]) -> None:
        data[json_name] = convert(getattr(message, name))

    return always


def _map_step(field: FieldDescriptor) -> Step:
    name, json_name = field.name, field.json_name
    assert field.message_type is not None
    convert = _convert(field.message_type.fields_by_name["value"])
    of_bool = field.message_type.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_BOOL

    def step(message: Any, data: dict[str, Any]) -> None:
        items = getattr(message, name).items()
        data[json_name] = {
            str(key).lower() if of_bool else str(key): convert(value) for key, value in items
        }

    return step


def _convert(field: FieldDescriptor) -> Convert:
    """What makes JSON of one value."""
    if field.message_type is not None:
        if field.message_type.full_name in _TIMES:
            return _time
        return _by_library if _is_well_known(field.message_type) else to_dict
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.cpp_type in _TEXT_INTEGERS:
        return str
    if field.cpp_type in _FLOATS:
        return _float(field)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return _same


def _time(value: Any) -> str:
    text: str = value.ToJsonString()
    return text


def _same(value: Any) -> Any:
    return value


def _enum(enum: EnumDescriptor) -> Convert:
    if enum.full_name == "google.protobuf.NullValue":
        return lambda _: None
    names = {value.number: value.name for value in reversed(enum.values)}
    # A number that a newer service knows and we do not goes out as it is.
    return lambda number: names.get(number, number)


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
