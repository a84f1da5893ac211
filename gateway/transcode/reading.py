"""JSON data -> messages, for values of the plainest kind, by a plan made once per message type.

That is most of what comes: text, booleans, numbers and names of enums where the message has just
that. Whatever else is given is the library's to read, which knows every form there is and costs
several times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

# (message, value, depth) -> whether it has been read.
Step = Callable[[Any, Any, int], bool]

# Messages that are nested deeper are the library's, which knows where to stop.
_DEPTH = 4

_INTEGERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_plans: dict[str, dict[str, tuple[str, Step]]] = {}


def read_plain(data: dict[str, Any], message: Message, depth: int = 0) -> bool:
    """Read JSON data into `message`; False when the library has to, from the beginning.

    Some fields may be set by then, to what the library will set them to. Raises `ValueError` for a
    number that its field cannot hold.
    """
    descriptor = cast(Descriptor, message.DESCRIPTOR)
    plan = _plans.get(descriptor.full_name)
    if plan is None:
        plan = _plans[descriptor.full_name] = _plan(descriptor)
    given = set()
    for name, value in data.items():
        known = plan.get(name)
        if known is None:
            return False
        slot, step = known
        # The same field, or one of the same oneof, given before.
        if slot in given or not step(message, value, depth):
            return False
        given.add(slot)
    return True


def _plan(descriptor: Descriptor) -> dict[str, tuple[str, Step]]:
    plan = {}
    for field in descriptor.fields:
        step = _step(field)
        if step is not None:
            oneof = field.containing_oneof
            slot = str(oneof.full_name if oneof is not None else field.full_name)
            plan[field.name] = plan[field.json_name] = (slot, step)
    return plan


def _step(field: FieldDescriptor) -> Step | None:
    if field.is_repeated:
        return None
    if field.message_type is not None:
        well_known = field.message_type.full_name.startswith("google.protobuf.")
        return None if well_known else _message(field.name)
    if field.enum_type is not None:
        well_known = field.enum_type.full_name.startswith("google.protobuf.")
        return None if well_known else _enum(field)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _exactly(field.name, bool)
    if field.cpp_type in _INTEGERS:
        return _exactly(field.name, int)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _exactly(field.name, str)
    return None


def _exactly(name: str, kind: type) -> Step:
    def step(message: Any, value: Any, depth: int) -> bool:
        # Not isinstance: a boolean is no number.
        if type(value) is not kind:
            return False
        setattr(message, name, value)
        return True

    return step


def _enum(field: FieldDescriptor) -> Step:
    assert field.enum_type is not None
    name = field.name
    numbers = {value.name: value.number for value in field.enum_type.values}

    def step(message: Any, value: Any, depth: int) -> bool:
        number = numbers.get(value) if type(value) is str else None
        if number is None:
            return False
        setattr(message, name, number)
        return True

    return step


def _message(name: str) -> Step:
    def step(message: Any, value: Any, depth: int) -> bool:
        if type(value) is not dict or depth == _DEPTH:
            return False
        inner = getattr(message, name)
        inner.SetInParent()
        return read_plain(value, inner, depth + 1)

    return step
