"""Targets and the service config of channels."""

from __future__ import annotations

import json

import pytest

from mesh.calls import CallContext, reset_call, set_call
from mesh.channel import idempotent_methods, outgoing, service_config, target_of
from mesh.telemetry import TraceContext, reset_trace, set_trace


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:50152", "ipv4:127.0.0.1:50152"),
        ("10.0.0.1:1, 10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("engine:50152", "dns:///engine:50152"),
        ("dns:///engine:50152", "dns:///engine:50152"),
        ("unix:/run/engine.sock", "unix:/run/engine.sock"),
    ],
)
def test_an_address_becomes_a_grpc_target(address: str, target: str) -> None:
    assert target_of(address) == target


def test_several_host_names_are_not_an_address() -> None:
    with pytest.raises(ValueError, match="IPv4"):
        target_of("a:1,b:1")


def test_only_what_may_be_sent_twice_is_retried() -> None:
    methods = {name for _, name in idempotent_methods("engine")}
    assert {"GetMarket", "ListOpenOrders", "CancelOrder", "ApplyTransfer"} <= methods
    assert methods.isdisjoint({"PlaceOrder", "BatchOrders", "AddMargin", "TradeStream"})


def test_the_service_config_balances_over_healthy_replicas() -> None:
    config = json.loads(service_config("engine"))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert "healthCheckConfig" in config
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_what_a_call_gives_wins_over_what_it_inherits() -> None:
    call = set_call(CallContext(request_id="r", authorization="Bearer inherited"))
    trace = set_trace(TraceContext(b"t" * 16, b"s" * 8))
    try:
        metadata = dict(outgoing((("authorization", "Bearer own"),)))
    finally:
        reset_trace(trace)
        reset_call(call)
    assert metadata == {
        "authorization": "Bearer own",
        "x-request-id": "r",
        "traceparent": f"00-{b't'.hex() * 16}-{b's'.hex() * 8}-01",
    }
