"""The numbers of the enums in types.proto, by name; a test holds the two together."""

from __future__ import annotations

from typing import Final

# MarketKind: What kind of market.
MARKET_KIND_UNSPECIFIED: Final = 0
MARKET_KIND_SPOT: Final = 1
MARKET_KIND_MARGIN: Final = 2
MARKET_KIND_CFD: Final = 3

# MarketStatus: What a market accepts now.
MARKET_STATUS_UNSPECIFIED: Final = 0
MARKET_STATUS_TRADING: Final = 1
MARKET_STATUS_CANCEL_ONLY: Final = 2
MARKET_STATUS_POST_ONLY: Final = 3
MARKET_STATUS_HALTED: Final = 4

# Side: Buy or sell.
SIDE_UNSPECIFIED: Final = 0
SIDE_BUY: Final = 1
SIDE_SELL: Final = 2

# OrderType: Order types.
ORDER_TYPE_UNSPECIFIED: Final = 0
ORDER_TYPE_LIMIT: Final = 1
ORDER_TYPE_MARKET: Final = 2
ORDER_TYPE_STOP_MARKET: Final = 3
ORDER_TYPE_STOP_LIMIT: Final = 4
ORDER_TYPE_TAKE_PROFIT_MARKET: Final = 5
ORDER_TYPE_TAKE_PROFIT_LIMIT: Final = 6
ORDER_TYPE_TRAILING_STOP: Final = 7

# TimeInForce: How long an order lives.
TIME_IN_FORCE_UNSPECIFIED: Final = 0
TIME_IN_FORCE_GTC: Final = 1
TIME_IN_FORCE_IOC: Final = 2
TIME_IN_FORCE_FOK: Final = 3
TIME_IN_FORCE_GTD: Final = 4

# OrderStatus: Where an order is in its life.
ORDER_STATUS_UNSPECIFIED: Final = 0
ORDER_STATUS_PENDING: Final = 1
ORDER_STATUS_OPEN: Final = 2
ORDER_STATUS_PARTIALLY_FILLED: Final = 3
ORDER_STATUS_FILLED: Final = 4
ORDER_STATUS_CANCELLED: Final = 5
ORDER_STATUS_EXPIRED: Final = 6
ORDER_STATUS_REJECTED: Final = 7
ORDER_STATUS_UNTRIGGERED: Final = 8

# SelfTradePrevention: what happens when an order meets another of its own account.
SELF_TRADE_PREVENTION_UNSPECIFIED: Final = 0
SELF_TRADE_PREVENTION_CANCEL_TAKER: Final = 1
SELF_TRADE_PREVENTION_CANCEL_MAKER: Final = 2
SELF_TRADE_PREVENTION_CANCEL_BOTH: Final = 3
SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL: Final = 4

# TriggerSource: Which price a trigger watches.
TRIGGER_SOURCE_UNSPECIFIED: Final = 0
TRIGGER_SOURCE_LAST: Final = 1
TRIGGER_SOURCE_MARK: Final = 2

# TransferKind: Why money entered or left a trading balance.
TRANSFER_KIND_UNSPECIFIED: Final = 0
TRANSFER_KIND_DEPOSIT: Final = 1
TRANSFER_KIND_WITHDRAWAL: Final = 2
TRANSFER_KIND_WITHDRAWAL_CANCELLED: Final = 3
TRANSFER_KIND_SHARD: Final = 4
