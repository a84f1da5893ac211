"""Text of paths and queries -> fields of a message.

Scalars, enums by name or number, wrappers, Timestamp, Duration and FieldMask; nested by dots;
repeated by repetition; map entries as `name[key]=value`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from gateway.transcode.errors import TranscodeError

FieldPath = tuple[FieldDescriptor, ...]

_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_FLOAT = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity", re.ASCII)
_MAP_ENTRY = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
# As Go's strconv.ParseBool, which grpc-gateway uses.
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_AS_JSON_STRING = frozenset(
    {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}
)
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


def by_name(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """A field by its original or JSON name."""
    found = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    return found or next((f for f in descriptor.fields if f.json_name == name), None)


def resolve(descriptor: Descriptor, names: Sequence[str]) -> FieldPath:
    """The fields a dotted path goes through, by original or JSON names.

    Raises `KeyError` with the unknown name, or when a path goes on behind a scalar.
    """
    path: list[FieldDescriptor] = []
    here: Descriptor | None = descriptor
    for name in names:
        field = None if here is None else by_name(here, name)
        if field is None or (path and path[-1].is_repeated):
            raise KeyError(name)
        path.append(field)
        here = field.message_type
    return tuple(path)


def is_bindable(field: FieldDescriptor) -> bool:
    """Whether a field can be written as text: scalars, enums and the well-known types above."""
    message = field.message_type
    return message is None or message.full_name in _AS_JSON_STRING | _WRAPPERS


def set_text(message: Message, path: FieldPath, values: Sequence[str], name: str) -> None:
    """Set the field at `path` from text; `name` is the path as the request has it, for errors.

    Raises `TranscodeError` (400): not the field's type, several values for one field, another
    member of its oneof set already.
    """
    *parents, field = path
    for parent in parents:
        _check_oneof(message, parent, name)
        message = getattr(message, parent.name)
    if not is_bindable(field):
        raise TranscodeError.invalid("cannot be given in the path or query", field=name)
    if field.is_repeated:
        target = getattr(message, field.name)
        for text in values:
            if field.message_type is None:
                target.append(_scalar(field, text, name))
            else:
                _set_well_known(target.add(), text, name)
        return
    if len(values) != 1:
        raise TranscodeError.invalid("is given more than once", field=name)
    _check_oneof(message, field, name)
    if field.message_type is None:
        setattr(message, field.name, _scalar(field, values[0], name))
    else:
        _set_well_known(getattr(message, field.name), values[0], name)


def set_query(message: Message, name: str, values: Sequence[str]) -> None:
    """Set what a query parameter names; raises `TranscodeError` (400) also for unknown names."""
    entry = _MAP_ENTRY.fullmatch(name)
    try:
        path = resolve(
            cast(Descriptor, message.DESCRIPTOR), (entry[1] if entry else name).split(".")
        )
    except KeyError:
        raise TranscodeError.invalid(
            f"{message.DESCRIPTOR.name} has no such field", field=name
        ) from None
    if entry:
        _set_map_entry(message, path, entry[2], values, name)
    else:
        set_text(message, path, values, name)


def _set_map_entry(
    message: Message, path: FieldPath, key: str, values: Sequence[str], name: str
) -> None:
    *parents, field = path
    for parent in parents:
        message = getattr(message, parent.name)
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        raise TranscodeError.invalid("is not a map", field=name)
    if len(values) != 1:
        raise TranscodeError.invalid("is given more than once", field=name)
    value = entry.fields_by_name["value"]
    if value.message_type is not None:
        raise TranscodeError.invalid("cannot be given in the path or query", field=name)
    converted = _scalar(value, values[0], name)
    getattr(message, field.name)[_scalar(entry.fields_by_name["key"], key, name)] = converted


def _check_oneof(message: Message, field: FieldDescriptor, name: str) -> None:
    oneof = field.containing_oneof
    if oneof is None:
        return
    chosen = message.WhichOneof(oneof.name)
    if chosen is not None and chosen != field.name:
        raise TranscodeError.invalid(f"cannot be given together with {chosen}", field=name)


def _set_well_known(target: Message, text: str, name: str) -> None:
    if target.DESCRIPTOR.full_name in _WRAPPERS:
        value = cast(FieldDescriptor, target.DESCRIPTOR.fields_by_name["value"])
        # Also marks the wrapper as set when the value is the default.
        target.SetInParent()
        setattr(target, "value", _scalar(value, text, name))  # noqa: B010
        return
    try:
        ParseDict(text, target)  # type: ignore[arg-type]
    except (ParseError, ValueError, TypeError, OverflowError) as error:
        raise TranscodeError.invalid(
            f"must be a {target.DESCRIPTOR.name} such as {_EXAMPLES[target.DESCRIPTOR.name]}",
            field=name,
        ) from error


_EXAMPLES = {
    "Timestamp": "2026-01-31T12:00:00Z",
    "Duration": "1.5s",
    "FieldMask": "price,quantity",
}


def _scalar(field: FieldDescriptor, text: str, name: str) -> Any:
    try:
        return _CONVERTERS[field.type](field, text)
    except (ValueError, KeyError) as error:
        raise TranscodeError.invalid(expected(field), field=name) from error


def _integer(low: int, high: int) -> Callable[[FieldDescriptor, str], int]:
    def convert(_: FieldDescriptor, text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= (value := int(text)) <= high:
            raise ValueError(text)
        return value

    return convert


def _float(_: FieldDescriptor, text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _bool(_: FieldDescriptor, text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def _string(_: FieldDescriptor, text: str) -> str:
    return text


def _bytes(_: FieldDescriptor, text: str) -> bytes:
    return _base64(text)


def _base64(text: str) -> bytes:
    standard = text.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _enum(field: FieldDescriptor, text: str) -> int:
    assert field.enum_type is not None
    known = field.enum_type.values_by_name.get(text)
    if known is not None:
        return int(known.number)
    return _integer(-(1 << 31), (1 << 31) - 1)(field, text)


def check_enum(field: FieldDescriptor, value: Any) -> None:
    """Raise `ValueError` unless a JSON value is a name of the field's enum, or an int32."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(value)
    _enum(field, str(value))


def is_bytes(field: FieldDescriptor) -> bool:
    """Whether the JSON of a value is base64."""
    message = field.message_type
    return field.type == FieldDescriptor.TYPE_BYTES or (
        message is not None and message.full_name == "google.protobuf.BytesValue"
    )


def check_bytes(value: Any) -> None:
    """Raise `ValueError` unless a JSON value is base64, of either alphabet, padded or not."""
    if not isinstance(value, str):
        raise ValueError(value)
    _base64(value)


def expected(field: FieldDescriptor) -> str:
    """What a value of this field must be, for people."""
    if field.message_type is not None:
        name = field.message_type.name
        if name in _EXAMPLES:
            return f"must be a {name} such as {_EXAMPLES[name]}"
        return expected(field.message_type.fields_by_name["value"])
    if field.enum_type is not None:
        return f"must be one of {', '.join(field.enum_type.values_by_name)}, or a number"
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return f"must be a whole number from {low} to {high}"
    return {
        FieldDescriptor.TYPE_BOOL: "must be true or false",
        FieldDescriptor.TYPE_BYTES: "must be base64",
        FieldDescriptor.TYPE_STRING: "must be a string",
    }.get(field.type, "must be a number")


_I32, _I64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
_U32, _U64 = (0, (1 << 32) - 1), (0, (1 << 64) - 1)
_INTEGERS: dict[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_INT32: _I32,
    FieldDescriptor.TYPE_SINT32: _I32,
    FieldDescriptor.TYPE_SFIXED32: _I32,
    FieldDescriptor.TYPE_UINT32: _U32,
    FieldDescriptor.TYPE_FIXED32: _U32,
    FieldDescriptor.TYPE_INT64: _I64,
    FieldDescriptor.TYPE_SINT64: _I64,
    FieldDescriptor.TYPE_SFIXED64: _I64,
    FieldDescriptor.TYPE_UINT64: _U64,
    FieldDescriptor.TYPE_FIXED64: _U64,
}
_CONVERTERS: dict[int, Callable[[FieldDescriptor, str], Any]] = {
    **{kind: _integer(low, high) for kind, (low, high) in _INTEGERS.items()},
    FieldDescriptor.TYPE_DOUBLE: _float,
    FieldDescriptor.TYPE_FLOAT: _float,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_ENUM: _enum,
}
