"""proto3 JSON: bytes <-> messages, with errors that name the field.

Reads lowerCamelCase and original names, refuses unknown fields and names that are given twice;
writes lowerCamelCase and also fields that have their default value (those without presence), 64-bit
integers as strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.transcode import fields
from gateway.transcode.errors import TranscodeError
from gateway.transcode.reading import read_plain
from gateway.transcode.writing import to_dict

# Messages may be nested this deep in JSON.
MAX_DEPTH = 32
# What ParseDict and the well-known types raise on bad input.
_BAD_INPUT = (ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


def load(body: bytes) -> Any:
    """JSON bytes -> data; raises `TranscodeError` (400), also for a name that is given twice."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TranscodeError.invalid(f"the body is not JSON: {error}") from error
    # One colon a name leaves none for names that were given before.
    if not isinstance(data, dict) or body.count(b":") != len(data):
        try:
            _UNIQUE.decode(body.decode())
        except RecursionError as error:
            raise TranscodeError.invalid("the body is nested too deeply") from error
    return data


def merge(data: Any, message: Message) -> None:
    """Read JSON data into `message`; raises `TranscodeError` (400) naming the field at fault."""
    if not isinstance(data, dict):
        raise TranscodeError.invalid("the body must be a JSON object")
    try:
        if read_plain(data, message):
            return
        ParseDict(data, message, max_recursion_depth=MAX_DEPTH)
        _check(data, cast(Descriptor, message.DESCRIPTOR))
    except _BAD_INPUT as error:
        raise _located(data, cast(Descriptor, message.DESCRIPTOR)) from error


def merge_field(data: Any, message: Message, field: FieldDescriptor) -> None:
    """Read JSON data into one field of `message`; raises like `merge`."""
    merge({field.json_name: data}, message)


def dump(message: Message) -> bytes:
    """A message as JSON."""
    return orjson.dumps(to_dict(message))


def _object(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise TranscodeError.invalid("is given more than once", field=name)
        seen.add(name)


# orjson keeps the last of two values with one name and says nothing.
_UNIQUE = json.JSONDecoder(object_pairs_hook=_object)


def _located(data: dict[str, Any], descriptor: Descriptor) -> TranscodeError:
    """The 400 for input that did not parse: finds the field by reading each on its own."""
    path: list[str] = []
    found = _descend(data, descriptor, path)
    if found:
        return TranscodeError.invalid(found, field=".".join(path))
    return TranscodeError.invalid("the body does not fit the message")


def _check(data: Any, descriptor: Descriptor) -> None:
    """Raise `ValueError` for what ParseDict takes and should not.

    One field under both its names, of which the last would win; an enum's number that it takes for
    another one: it drops the bits above 32, the fraction, and takes booleans, so that 4294967298
    would be 2; base64 of which it leaves out what is none.
    """
    given: set[int] = set()
    for name, value in data.items():
        field = fields.by_name(descriptor, name)
        if field is None:
            continue
        if field.number in given:
            raise ValueError(name)
        given.add(field.number)
        if value is None or not _is_checked(field):
            continue
        for _, item, of in _items(name, value, field):
            if of.enum_type is not None:
                fields.check_enum(of, item)
            elif _is_plain_message(of):
                assert of.message_type is not None
                _check(item, of.message_type)
            else:
                fields.check_bytes(item)


def _is_checked(field: FieldDescriptor) -> bool:
    """Whether there is more to check than ParseDict does."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return _is_checked(message.fields_by_name["value"])
    return field.enum_type is not None or _is_plain_message(field) or fields.is_bytes(field)


def _items(
    name: str, value: Any, field: FieldDescriptor
) -> Iterator[tuple[str, Any, FieldDescriptor]]:
    """(where, value, field of such a value) of each value of a field."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        of = message.fields_by_name["value"]
        yield from ((f"{name}[{key}]", item, of) for key, item in value.items())
    elif field.is_repeated:
        yield from ((f"{name}[{index}]", item, field) for index, item in enumerate(value))
    else:
        yield name, value, field


def _descend(data: Any, descriptor: Descriptor, path: list[str]) -> str:
    """What is wrong in `data`, with `path` set to where; empty when nothing was found.

    Every value is looked at once, so bad input costs no more than good.
    """
    if not isinstance(data, dict):
        return "must be an object"
    if len(path) >= MAX_DEPTH:
        return "is nested too deeply"
    given: dict[str, str] = {}
    for name, value in data.items():
        field = fields.by_name(descriptor, name)
        path.append(name)
        if field is None:
            return f"{descriptor.name} has no such field"
        found = _value_fault(name, value, field, path) or _clash(name, value, field, given)
        if found:
            return found
        path.pop()
    return ""


def _clash(name: str, value: Any, field: FieldDescriptor, given: dict[str, str]) -> str:
    """What is wrong between a field and those `given` before it, by field and by oneof."""
    if field.name in given:
        return f"is given as {given[field.name]} too"
    given[field.name] = name
    oneof = field.containing_oneof
    if oneof is None or value is None:
        return ""
    if oneof.full_name in given:
        return f"cannot be given together with {given[oneof.full_name]}"
    given[oneof.full_name] = name
    return ""


def _value_fault(name: str, value: Any, field: FieldDescriptor, path: list[str]) -> str:
    """What is wrong in the value of one field."""
    message = field.message_type
    is_map = message is not None and message.GetOptions().map_entry
    inner = message.fields_by_name["value"] if message is not None and is_map else field
    if value is not None and _is_plain_message(inner):
        if is_map and not isinstance(value, dict):
            return "must be an object of objects"
        if field.is_repeated and not is_map and not isinstance(value, list):
            return "must be a list of objects"
        for where, item, of in _items(name, value, field):
            assert of.message_type is not None
            path[-1] = where
            found = _descend(item, of.message_type, path)
            if found:
                return found
        return ""
    assert field.containing_type is not None
    try:
        ParseDict({name: value}, GetMessageClass(field.containing_type)())
        _check({name: value}, field.containing_type)
    except _BAD_INPUT as error:
        return _wrong(field, error)
    return ""


def _is_plain_message(field: FieldDescriptor) -> bool:
    """Whether the JSON of a value is an object with fields."""
    message = field.message_type
    return (
        message is not None
        and not message.full_name.startswith("google.protobuf.")
        and not message.GetOptions().map_entry
    )


def _wrong(field: FieldDescriptor, error: Exception) -> str:
    if field.message_type is not None and not fields.is_bindable(field):
        return _first_line(error)
    text = fields.expected(field)
    return f"must be a list; each {text}" if field.is_repeated else text


def _first_line(error: Exception) -> str:
    """The innermost reason without the nesting that json_format wraps around it."""
    text = str(error).partition("\n")[0]
    while text.startswith("Failed to parse ") and ": " in text:
        text = text.partition(": ")[2]
    return text.partition(" at ")[0].rstrip(".") or "is not valid"
