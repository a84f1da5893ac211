"""JSON schemas (2020-12, as in OpenAPI 3.1) of messages, with comments and validation rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

_PREFIX = "tidebook."
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
}
_F = FieldDescriptor
_SCALARS: dict[int, Schema] = {
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _F.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.TYPE_FLOAT: {"type": "number", "format": "float"},
    **{
        kind: {"type": "integer", "format": "int32"}
        for kind in (_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32)
    },
    **{
        kind: {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}
        for kind in (_F.TYPE_UINT32, _F.TYPE_FIXED32)
    },
    # A JSON number would lose digits in JavaScript.
    **{
        kind: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
        for kind in (_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64)
    },
    **{
        kind: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}
        for kind in (_F.TYPE_UINT64, _F.TYPE_FIXED64)
    },
}


def reachable(roots: Iterable[Descriptor]) -> frozenset[str]:
    """Full names of messages and of all that their fields hold."""
    found: dict[str, Descriptor] = {}
    waiting = list(roots)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found[message.full_name] = message
            waiting += [f.message_type for f in message.fields if f.message_type is not None]
    return frozenset(found)


def schema_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """`tidebook.engine.v1.Order` -> `engine.v1.Order`."""
    return str(descriptor.full_name).removeprefix(_PREFIX)


class Schemas:
    """Collects the schemas of every message and enum that was asked for, and what they refer to."""

    def __init__(
        self, comments: Mapping[str, str], *, closed: frozenset[str] = frozenset()
    ) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        # Full names of the messages that are refused with fields that they do not have.
        self._closed = closed

    def comment(self, full_name: str) -> str:
        return self._comments.get(full_name, "")

    def message(self, descriptor: Descriptor) -> Schema:
        """A reference to a message's schema."""
        known = _WELL_KNOWN.get(descriptor.full_name)
        if known is not None:
            return dict(known)
        name = schema_name(descriptor)
        if name not in self.components:
            # First the name: messages may contain themselves.
            self.components[name] = {}
            self.components[name] = self.object(descriptor)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, descriptor: Descriptor, *, without: frozenset[str] = frozenset()) -> Schema:
        """A message's own schema, maybe without some of its fields."""
        fields = [field for field in descriptor.fields if field.name not in without]
        schema: Schema = {"type": "object"}
        text = self.comment(descriptor.full_name)
        if text:
            schema["description"] = text
        if fields:
            schema["properties"] = {field.json_name: self.field(field) for field in fields}
        required = [field.json_name for field in fields if is_required(field)]
        if required:
            schema["required"] = required
        if descriptor.full_name in self._closed:
            schema["additionalProperties"] = False
        return schema

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field's value."""
        rules = rules_of(field)
        schema: Schema
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = field.message_type.fields_by_name["value"]
            schema = {"type": "object", "additionalProperties": self._single(values, None)}
        elif field.is_repeated:
            items = rules.repeated.items if rules.repeated.HasField("items") else None
            schema = {"type": "array", "items": self._single(field, items)}
            if rules.repeated.HasField("min_items"):
                schema["minItems"] = rules.repeated.min_items
            if rules.repeated.HasField("max_items"):
                schema["maxItems"] = rules.repeated.max_items
        else:
            schema = self._single(field, rules)
        text = self.comment(field.full_name)
        # Beside a reference a description stands for itself.
        return schema | ({"description": text} if text else {})

    def _single(self, field: FieldDescriptor, rules: Any) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            excluded = set(rules.enum.not_in) if rules is not None else set()
            if not excluded:
                return self._enum(field.enum_type)
            names = [v.name for v in field.enum_type.values if v.number not in excluded]
            return {"type": "string", "enum": names}
        schema = dict(_SCALARS[field.type])
        if rules is not None:
            _add_rules(schema, field, rules)
        return schema

    def _enum(self, descriptor: EnumDescriptor) -> Schema:
        name = schema_name(descriptor)
        if name not in self.components:
            lines = [
                f"- `{value.name}`: {self.comment(f'{descriptor.full_name}.{value.name}')}"
                for value in descriptor.values
            ]
            self.components[name] = {
                "type": "string",
                "enum": [value.name for value in descriptor.values],
                "description": "\n".join([self.comment(descriptor.full_name), "", *lines]),
            }
        return {"$ref": f"#/components/schemas/{name}"}


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """The `buf.validate` rules of a field; empty ones when it has none."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def is_required(field: FieldDescriptor) -> bool:
    """Whether leaving the field out breaks its rules."""
    rules = rules_of(field)
    if rules.required:
        return True
    if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        return False
    return (
        0 in rules.enum.not_in
        or rules.string.min_len > 0
        or (rules.string.HasField("pattern") and not _matches_empty(rules.string.pattern))
        or rules.repeated.min_items > 0
        or rules.uint64.HasField("gt")
        or rules.uint32.gte > 0
    )


def _matches_empty(pattern: str) -> bool:
    return re.search(pattern, "") is not None


def _add_rules(schema: Schema, field: FieldDescriptor, rules: Any) -> None:
    text = rules.string
    if text.HasField("pattern"):
        optional = rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE
        schema["pattern"] = f"^$|{text.pattern}" if optional else text.pattern
    if text.HasField("min_len"):
        schema["minLength"] = text.min_len
    if text.HasField("max_len"):
        schema["maxLength"] = text.max_len
    number = rules.uint32
    for name, bound, further in (
        ("gte", "minimum", 0),
        ("gt", "minimum", 1),
        ("lte", "maximum", 0),
        ("lt", "maximum", -1),
    ):
        if number.HasField(name):
            schema[bound] = getattr(number, name) + further
    if rules.uint64.HasField("gt"):
        schema["pattern"] = "^0*[1-9][0-9]{0,19}$"
    if rules.int64.HasField("gt"):
        schema["pattern"] = "^0*[1-9][0-9]{0,18}$"
    if rules.int64.HasField("gte"):
        schema["pattern"] = "^[0-9]{1,19}$"
