"""A trader who streams orders, notes every answer, and comes back when the stream breaks.

What was not answered is sent again with the same client_order_id, as the contract tells bots to.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

import grpc
from tidebook.engine.v1 import order_pb2, order_pb2_grpc, types_pb2

from examples.client import Person, bearer
from kernel.reasons import Reason
from mesh.status import RETRYABLE

WINDOW = 4  # messages in flight
PAUSE_SECONDS = 0.03  # between messages: a stream of orders, not a load test
RECONNECT_SECONDS = 0.1
# Middle and tick of the markets traded, in hundredths of the quote asset.
MIDDLES = {"SOL_USDC": 200_00, "BTC_USDC": 60_000_00}
_LOTS = {"SOL_USDC": ("0.0{:02d}", 10), "BTC_USDC": ("0.000{:02d}", 4)}


class StreamTrader:
    """One account that places and cancels orders at random but repeatable."""

    def __init__(self, channel: grpc.aio.Channel, person: Person, *, name: str, seed: int) -> None:
        self.person = person
        self.name = name
        self.sent: dict[str, order_pb2.PlaceOrderRequest] = {}
        # What became of each order: exactly one of the two, by client_order_id.
        self.placed: dict[str, order_pb2.PlaceOrderResponse] = {}
        self.refused: dict[str, str] = {}
        self.breaks = 0
        self._stub = order_pb2_grpc.OrderServiceStub(channel)
        self._random = random.Random(seed)
        self._next_id = 0
        self._resting: list[str] = []
        self._unanswered: deque[order_pb2.TradeCommand] = deque()

    @property
    def answered(self) -> int:
        """Orders that the exchange has answered."""
        return len(self.placed) + len(self.refused)

    async def run(self, stop: asyncio.Event) -> None:
        """Trade until `stop`, then until every command is answered."""
        while not await self._stream(stop):
            self.breaks += 1
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _stream(self, stop: asyncio.Event) -> bool:
        """One stream; False when it broke."""
        in_flight: deque[list[order_pb2.TradeCommand]] = deque()
        call = self._stub.TradeStream(metadata=await bearer(self.person))
        try:
            while True:
                while len(in_flight) < WINDOW and (commands := self._next_commands(stop)):
                    in_flight.append(commands)
                    await call.write(order_pb2.TradeStreamRequest(commands=commands))
                if not in_flight:
                    return True
                answer = await call.read()
                if not isinstance(answer, order_pb2.TradeStreamResponse):
                    return False
                for command, result in zip(in_flight.popleft(), answer.results, strict=True):
                    self._note(command, result)
                await asyncio.sleep(PAUSE_SECONDS)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        finally:
            call.cancel()
            # In their old order, before anything new.
            self._unanswered.extendleft(
                reversed([command for commands in in_flight for command in commands])
            )

    def _next_commands(self, stop: asyncio.Event) -> list[order_pb2.TradeCommand]:
        if self._unanswered:
            return [self._unanswered.popleft() for _ in range(min(8, len(self._unanswered)))]
        if stop.is_set():
            return []
        commands = [self._command(place=self._order()) for _ in range(self._random.randint(1, 8))]
        if len(self._resting) > 40:
            client_order_id = self._resting.pop(self._random.randrange(len(self._resting)))
            cancel = order_pb2.CancelOrderRequest(client_order_id=client_order_id)
            commands += [self._command(cancel=cancel)]
        if self._random.random() < 0.02:
            commands += [self._command(cancel_all=order_pb2.CancelAllOrdersRequest())]
        return commands

    def _command(
        self,
        *,
        place: order_pb2.PlaceOrderRequest | None = None,
        cancel: order_pb2.CancelOrderRequest | None = None,
        cancel_all: order_pb2.CancelAllOrdersRequest | None = None,
    ) -> order_pb2.TradeCommand:
        self._next_id += 1
        return order_pb2.TradeCommand(
            request_id=self._next_id, place=place, cancel=cancel, cancel_all=cancel_all
        )

    def _order(self) -> order_pb2.PlaceOrderRequest:
        """Around the middle, so that some rest and some cross; a few are IOC or MARKET."""
        chance = self._random
        market = chance.choice(list(MIDDLES))
        side = chance.choice([types_pb2.SIDE_BUY, types_pb2.SIDE_SELL])
        pattern, least = _LOTS[market]
        order = order_pb2.PlaceOrderRequest(
            market=market,
            side=side,
            type=types_pb2.ORDER_TYPE_LIMIT,
            quantity=pattern.format(chance.randint(least, 99)),
            client_order_id=f"{self.name}-{len(self.sent)}",
            self_trade_prevention=chance.choice(
                [
                    types_pb2.SELF_TRADE_PREVENTION_CANCEL_TAKER,
                    types_pb2.SELF_TRADE_PREVENTION_CANCEL_MAKER,
                ]
            ),
        )
        if chance.random() < 0.05:
            order.type = types_pb2.ORDER_TYPE_MARKET
        else:
            cents = MIDDLES[market] + chance.randint(-60, 60)
            order.price = f"{cents // 100}.{cents % 100:02d}"
            if chance.random() < 0.1:
                order.time_in_force = types_pb2.TIME_IN_FORCE_IOC
        self.sent[order.client_order_id] = order
        return order

    def _note(self, command: order_pb2.TradeCommand, result: order_pb2.TradeResult) -> None:
        assert result.request_id == command.request_id, "results come in the order of the commands"
        refused = result.WhichOneof("result") == "error"
        if refused and Reason(result.error.reason) in RETRYABLE:
            self._unanswered.append(command)
            return
        if not command.HasField("place"):
            return
        client_order_id = command.place.client_order_id
        assert client_order_id not in self.placed, "one answer for each command"
        assert client_order_id not in self.refused, "one answer for each command"
        if refused:
            self.refused[client_order_id] = Reason(result.error.reason).name
            return
        self.placed[client_order_id] = result.placed
        if result.placed.order.status == types_pb2.ORDER_STATUS_OPEN:
            self._resting.append(client_order_id)
