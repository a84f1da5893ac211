"""Commands and events into the log and back; their fields and numbers are the log's."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from tidebook.engine.v1 import log_pb2, types_pb2

from kernel.reasons import Reason
from services.engine import logcodec
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.record import Record, field_names
from services.engine.wire import WireCommands
from tests.engine_core.world import ALICE, BOB, World, configure, place

MESSAGES = log_pb2.DESCRIPTOR.message_types_by_name
COMMANDS = c.Command.__subclasses__()
EVENTS = e.Event.__subclasses__()
NESTED = {
    "AssetConfig": c.AssetConfig,
    "MarketConfig": c.MarketConfig,
    "MarginTierConfig": c.MarginTierConfig,
    "PriceUpdate": c.PriceUpdate,
    "AutoDeleverage": pe.AutoDeleverage,
}


def message_of(kind: type[Record]) -> Descriptor:
    name = kind.__name__ + ("Command" if issubclass(kind, c.Command) else "")
    return MESSAGES[name]


def inner(order: Record) -> Record:
    """An order inside another command, which says who acts and until when."""
    assert isinstance(order, c.PlaceOrder)
    order.account_id = order.deadline_ns = 0
    return order


def records(kind: type[Record]) -> st.SearchStrategy[Record]:
    """Records of a kind with any values its message can carry."""
    values: dict[str, st.SearchStrategy[object]] = {}
    if issubclass(kind, c.Command):
        values = {"account_id": st.integers(0, 2**64 - 1), "deadline_ns": st.integers(0, 2**63 - 1)}
    for field in message_of(kind).fields:
        if field.cpp_type == field.CPPTYPE_STRING:
            values[field.name] = st.text(max_size=36)
        elif field.cpp_type == field.CPPTYPE_BOOL:
            values[field.name] = st.booleans()
        elif field.cpp_type == field.CPPTYPE_UINT32:
            values[field.name] = st.integers(0, 2**32 - 1)
        elif field.cpp_type == field.CPPTYPE_UINT64:
            values[field.name] = st.integers(0, 2**64 - 1)
        elif field.enum_type is not None:
            values[field.name] = st.sampled_from([v.number for v in field.enum_type.values])
        elif field.message_type is not None:
            if field.message_type.name == "PlaceOrderCommand":
                values[field.name] = records(c.PlaceOrder).map(inner)
            else:
                nested = NESTED[field.message_type.name]
                values[field.name] = st.lists(records(nested), max_size=2).map(tuple)
        else:
            bits = 31 if field.cpp_type == field.CPPTYPE_INT32 else 63
            values[field.name] = st.integers(-(2**bits), 2**bits - 1)
    return st.builds(kind, **values)


@pytest.mark.parametrize("kind", [*COMMANDS, *EVENTS, *NESTED.values()])
def test_a_record_has_the_fields_of_its_message(kind: type[Record]) -> None:
    outer = field_names(c.Command) if issubclass(kind, c.Command) else ()
    own = [name for name in field_names(kind) if name not in outer]
    assert own == [field.name for field in message_of(kind).fields]


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_comes_back_from_the_log(kind: type[c.Command]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(command=records(kind))
    def round_trip(command: c.Command) -> None:
        entry = log_pb2.LogEntry()
        logcodec.add_command(
            entry, command, [], command_seq=7, received_ns=8, trace_id=b"t" * 16, span_id=b"s" * 8
        )
        again = log_pb2.LogEntry.FromString(entry.SerializeToString()).commands[0]
        assert logcodec.decode_command(again) == command
        assert (again.command_seq, again.received_ns) == (7, 8)
        assert (again.trace_id, again.span_id) == (b"t" * 16, b"s" * 8)

    round_trip()


HOT_COMMANDS = (c.PlaceOrder, c.CancelOrder)
HOT_EVENTS = (e.OrderPlaced, e.Trade, e.OrderClosed, e.CommandRefused)


@settings(max_examples=300, deadline=None)
@given(
    command=st.one_of(*map(records, HOT_COMMANDS)),
    events=st.lists(st.one_of(*map(records, HOT_EVENTS)), max_size=4),
    command_seq=st.integers(0, 2**63 - 1),
    trace_id=st.sampled_from([b"", b"t" * 16]),
)
def test_what_is_written_without_messages_is_what_messages_give(
    command: c.Command, events: list[e.Event], command_seq: int, trace_id: bytes
) -> None:
    arguments = (command, events, command_seq, 1_700_000_000_000_000_000, trace_id, trace_id[:8])
    slow, quick = logcodec.MessageCommands(), WireCommands(logcodec.logged_command_bytes)
    for commands in (slow, quick):
        commands.add(*arguments)
        commands.add(*arguments)
    assert quick.getvalue() == slow.getvalue()
    assert len(quick) == len(slow) == 2


def test_an_order_and_its_events_need_no_messages() -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("it was left to messages")

    world = World()
    quick = WireCommands(refuse)
    sell = place(BOB, "sell", 2, 1_000, client_order_id="a")
    for command in (sell, place(ALICE, "buy", 1, 1_000), c.CancelOrder(BOB, 1), c.CancelOrder(9)):
        quick.add(command, world.do(command), 1, 2, b"t" * 16, b"s" * 8)
    assert len(log_pb2.LogEntry.FromString(quick.getvalue()).commands) == len(quick) == 4


def test_what_cannot_be_written_without_messages_is_left_to_them() -> None:
    slow, quick = logcodec.MessageCommands(), WireCommands(logcodec.logged_command_bytes)
    for commands in (slow, quick):
        commands.add(c.Tick(), [e.TimePassed(3)], 1, 2, b"", b"")
        commands.add(c.CancelOrder(1, 2), [e.OrdersCancelled(3)], 2, 2, b"", b"")
        commands.add(c.CancelOrder(2**64 - 1, 2**64 - 1), [], 3, 2, b"", b"")
    assert quick.getvalue() == slow.getvalue()


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_comes_back_from_the_log(kind: type[e.Event]) -> None:
    @settings(max_examples=30, deadline=None)
    @given(event=records(kind))
    def round_trip(event: e.Event) -> None:
        logged = log_pb2.LoggedCommand()
        logcodec.add_events(logged, [event, event])
        again = log_pb2.LoggedCommand.FromString(logged.SerializeToString())
        assert logcodec.decode_events(again) == [event, event]

    round_trip()


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_of_zeros_is_still_an_event(kind: type[e.Event]) -> None:
    zeros = {f.name: () if f.is_repeated else f.default_value for f in message_of(kind).fields}
    event = kind(**zeros)
    logged = log_pb2.LoggedCommand()
    logcodec.add_events(logged, [event])
    again = log_pb2.LoggedCommand.FromString(logged.SerializeToString())
    assert logcodec.decode_events(again) == [event]


def test_the_configuration_comes_back_whole() -> None:
    command = configure()
    assert logcodec.decode_command(logcodec.encode_command(command)) == command


def test_an_unknown_command_is_refused() -> None:
    # Field 39 is one that a later version may give a command.
    logged = log_pb2.LoggedCommand.FromString(b"\x08\x07\xba\x02\x00")
    with pytest.raises(ValueError, match="command 7 is of the unknown kind"):
        logcodec.decode_command(logged)


def test_constants_are_the_numbers_of_the_proto() -> None:
    ours = {name: value for name, value in vars(k).items() if name.isupper()}
    theirs = {
        value.name: value.number
        for enum in types_pb2.DESCRIPTOR.enum_types_by_name.values()
        if enum.name != "CfdCloseReason"
        for value in enum.values
    }
    assert ours == theirs


def test_a_refusal_carries_its_reason_as_a_number() -> None:
    logged = log_pb2.LoggedCommand()
    logcodec.add_events(logged, [e.CommandRefused(int(Reason.MARKET_HALTED), "market_id")])
    assert logged.events[0].command_refused.reason == int(Reason.MARKET_HALTED)
