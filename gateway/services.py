"""The public services behind the gateway: the one table that HTTP, the door and OpenAPI share.

What is not listed here cannot be reached through the gateway.
"""

from __future__ import annotations

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from tidebook.auth.v1 import auth_pb2
from tidebook.engine.v1 import market_pb2, order_pb2, position_pb2
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2
from tidebook.settlement.v1 import history_pb2, ledger_pb2

# Upstream name -> its public services.
UPSTREAM_SERVICES: dict[str, tuple[ServiceDescriptor, ...]] = {
    "auth": (auth_pb2.DESCRIPTOR.services_by_name["AuthService"],),
    "engine": (
        market_pb2.DESCRIPTOR.services_by_name["MarketService"],
        order_pb2.DESCRIPTOR.services_by_name["OrderService"],
        position_pb2.DESCRIPTOR.services_by_name["PositionService"],
    ),
    "marketdata": (marketdata_pb2.DESCRIPTOR.services_by_name["MarketDataService"],),
    "settlement": (
        ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
        history_pb2.DESCRIPTOR.services_by_name["HistoryService"],
    ),
}
# Served in this process.
OWN_SERVICES: tuple[ServiceDescriptor, ...] = (
    gateway_pb2.DESCRIPTOR.services_by_name["TraceService"],
    gateway_pb2.DESCRIPTOR.services_by_name["DevService"],
)
ALL_SERVICES: tuple[ServiceDescriptor, ...] = (
    *(service for services in UPSTREAM_SERVICES.values() for service in services),
    *OWN_SERVICES,
)


def rpc_path(method: MethodDescriptor) -> str:
    """`/package.Service/Method`."""
    return f"/{method.containing_service.full_name}/{method.name}"
