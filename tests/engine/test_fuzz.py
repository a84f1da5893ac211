"""Whatever bytes and numbers come in over gRPC: a typed answer, and an engine that goes on."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tidebook.engine.v1 import order_pb2, position_pb2

from kernel.reasons import Reason
from mesh.status import refused_from, rpc_status_from
from tests.support.engine import EngineRig

_ROUNDS = 25
_INT_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_TEXTS = ("", "BTC_USDC", "0", "1e5", "-1", "NaN", "9" * 20, "0." + "1" * 18, "\0", "é" * 40, "1.")


def filled(message: Message, chance: random.Random) -> Message:
    """`message` with fields of any value that the wire takes."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3:
            continue
        target: Any = message
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            inner = getattr(target, field.name)
            filled(inner.add() if field.is_repeated else inner, chance)
            continue
        value: Any
        if field.cpp_type in _INT_BITS:
            low, high = _INT_BITS[field.cpp_type]
            value = chance.choice((low, high, high >> 1, 1, chance.randint(low, high)))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            value = chance.choice((-1, 0, 1, 2, 7, 99, (1 << 31) - 1))
        elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            value = chance.random() < 0.5
        else:
            value = chance.choice(_TEXTS)
        if field.is_repeated:
            getattr(target, field.name).append(value)
        else:
            setattr(target, field.name, value)
    return message


async def test_any_bytes_and_numbers_get_a_typed_answer(engine: EngineRig) -> None:
    chance = random.Random(11)
    trader = await engine.funded(1)
    methods = [
        method
        for module in (order_pb2, position_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]

    async def ask(method: Any, data: bytes) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        call: Any = engine.public.unary_unary(path)
        try:
            await call(data, metadata=trader.metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            assert rpc_status_from(error).details, (path, data, error)
            reason = refused_from(error).reason
            assert reason not in (Reason.INTERNAL, Reason.UNSPECIFIED), (path, data, error)

    for _ in range(_ROUNDS):
        requests = []
        for method in methods:
            message = filled(GetMessageClass(method.input_type)(), chance)
            requests.append((method, message.SerializeToString()))
            requests.append((method, chance.randbytes(chance.randint(1, 60))))
        await asyncio.gather(*(ask(method, data) for method, data in requests))
    assert (await trader.place(client_order_id="after-all")).order.order_id
