"""What is read and written is what the library would, for every message there is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tidebook.engine.v1 import order_pb2

from gateway.services import ALL_SERVICES
from gateway.transcode import TranscodeError, jsonpb
from gateway.transcode.writing import to_dict
from tests.gateway.test_transcode import service

MESSAGES = sorted(
    {
        message.full_name: message
        for service in ALL_SERVICES
        for method in service.methods
        for message in (method.input_type, method.output_type)
    }.values(),
    key=lambda message: str(message.full_name),
)
FLOATS = (0.0, 1.5, 0.1, -3e38, float("inf"), float("-inf"))


def filled(descriptor: Descriptor, rng: random.Random, depth: int = 0) -> Any:
    """A message with about half of its fields set."""
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if rng.random() < 0.5 or (depth > 3 and field.message_type is not None):
            continue
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            fill_map(message, field, rng, depth)
        elif field.is_repeated:
            values = [value_of(field, rng, depth) for _ in range(rng.randrange(3))]
            getattr(message, field.name).extend(values)
        elif inner is not None:
            getattr(message, field.name).CopyFrom(value_of(field, rng, depth))
        else:
            setattr(message, field.name, value_of(field, rng, depth))
    return message


def fill_map(message: Any, field: FieldDescriptor, rng: random.Random, depth: int) -> None:
    assert field.message_type is not None
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    target = getattr(message, field.name)
    for _ in range(rng.randrange(3)):
        name = value_of(key, rng, depth)
        if value.message_type is not None:
            target[name].CopyFrom(value_of(value, rng, depth))
        else:
            target[name] = value_of(value, rng, depth)


def value_of(field: FieldDescriptor, rng: random.Random, depth: int) -> Any:
    message = field.message_type
    if message is not None:
        if message.full_name == "google.protobuf.Timestamp":
            # Written with no, three, six or nine digits of the second.
            unit = rng.choice((1, 10**3, 10**6, 10**9))
            return GetMessageClass(message)(
                seconds=rng.randrange(2**31), nanos=rng.randrange(10**9) // unit * unit
            )
        if message.full_name == "google.protobuf.Duration":
            return GetMessageClass(message)(seconds=rng.randrange(10**6))
        if message.full_name.startswith("google.protobuf."):
            return GetMessageClass(message)()
        return filled(message, rng, depth + 1)
    if field.enum_type is not None:
        # One of its numbers, or one that nobody has named yet.
        return rng.choice([*(value.number for value in field.enum_type.values), 999])
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.randbytes(rng.randrange(9))
        return rng.choice(["", "BTC_USDC", "ü\n\"'", "0"])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    wide = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    bits = (64 if wide else 32) - signed
    return rng.choice([0, 1, 2**bits - 1, -(2**bits) if signed else 7])


@pytest.mark.parametrize("descriptor", MESSAGES, ids=lambda descriptor: descriptor.name)
def test_every_public_message(descriptor: Descriptor) -> None:
    same_as_the_library(descriptor, 8)


def test_every_kind_of_field() -> None:
    for descriptor in service().file.message_types_by_name.values():
        same_as_the_library(descriptor, 60)


TWICE: list[tuple[dict[str, Any], type[Message]]] = [
    ({"clientOrderId": "a", "client_order_id": "b"}, order_pb2.PlaceOrderRequest),
    ({"place": {}, "cancel": {}}, order_pb2.TradeCommand),
]


@pytest.mark.parametrize(("data", "kind"), TWICE)
def test_a_field_that_is_given_twice_is_refused(data: dict[str, Any], kind: type[Message]) -> None:
    with pytest.raises(TranscodeError):
        jsonpb.merge(data, kind())


def same_as_the_library(descriptor: Descriptor, times: int) -> None:
    for seed in range(times):
        message = filled(descriptor, random.Random(seed))
        expected = MessageToDict(message, always_print_fields_with_no_presence=True)
        assert to_dict(message) == expected
        data = MessageToDict(message)
        read = GetMessageClass(descriptor)()
        jsonpb.merge(data, read)
        assert read == ParseDict(data, GetMessageClass(descriptor)())
