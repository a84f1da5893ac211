"""The smallest bot: sign in with an API key, buy a little over gRPC, print every fill.

API_KEY_ID=... API_KEY_SECRET=... python examples/simple_bot.py

It ends with its access token, after ten minutes; `liquidity_bot.py` shows how to go on for ever.
"""

import os
import sys

import grpc
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc
from tidebook.engine.v1 import order_pb2, order_pb2_grpc, types_pb2
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc


def trade(channel: grpc.Channel, key_id: str, secret: str) -> None:
    key = auth_pb2.ExchangeApiKeyRequest(api_key_id=key_id, secret=secret)
    token = auth_pb2_grpc.AuthServiceStub(channel).ExchangeApiKey(key).access_token
    me = (("authorization", f"Bearer {token}"),)

    ticker = marketdata_pb2_grpc.MarketDataServiceStub(channel).GetTicker(
        marketdata_pb2.GetTickerRequest(market="BTC_USDC")
    )
    orders = order_pb2_grpc.OrderServiceStub(channel)
    updates = orders.WatchAccount(order_pb2.WatchAccountRequest(), metadata=me)
    next(updates)  # a snapshot of the account; every change from now on follows
    order = order_pb2.PlaceOrderRequest(
        market="BTC_USDC",
        side=types_pb2.SIDE_BUY,
        type=types_pb2.ORDER_TYPE_LIMIT,
        price=ticker.ticker.best_ask,
        quantity="0.001",
    )
    placed = orders.PlaceOrder(order, metadata=me).order
    print(f"order {placed.order_id}: {types_pb2.OrderStatus.Name(placed.status)}")

    for update in updates:
        for fill in update.fills:
            print(f"filled {fill.quantity} at {fill.price}, fee {fill.fee}")


try:
    door = os.environ.get("TIDEBOOK_GRPC", "127.0.0.1:50050")
    trade(grpc.insecure_channel(door), os.environ["API_KEY_ID"], os.environ["API_KEY_SECRET"])
except KeyError as missing:
    sys.exit(f"{missing} is not set: the page makes API keys under Security; this one has to trade")
except grpc.RpcError as error:
    assert isinstance(error, grpc.Call)
    sys.exit(f"{error.code().name}: {error.details()}")
