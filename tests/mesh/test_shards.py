"""Which shard has which market, and where its services are."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kernel.markets import default_markets
from kernel.reasons import Reason
from mesh.config import load_settings
from mesh.shards import ShardMap


def test_one_shard_has_everything_unless_told_otherwise() -> None:
    settings = load_settings()
    shards = settings.shard_map
    assert shards.numbers == (0,)
    assert shards.markets_of(0, default_markets()) == default_markets()
    assert settings.address_of("engine") == "127.0.0.1:50152"
    assert shards.endpoints == {0: ("127.0.0.1:50052",)}


def test_the_longest_name_that_fits_has_a_market() -> None:
    shards = ShardMap.parse("0=*; 1=SOL_*,DOGE_USDC ;2=SOL_USDC_CFD")
    found = {name: shards.of_market(name) for name in ("BTC_USDC", "SOL_USDC", "SOL_USDC_CFD")}
    assert found == {"BTC_USDC": 0, "SOL_USDC": 1, "SOL_USDC_CFD": 2}
    # A whole name is no beginning.
    assert (shards.of_market("DOGE_USDC"), shards.of_market("DOGE_USDC_CFD")) == (1, 0)
    of_each = [shards.markets_of(shard, default_markets()) for shard in shards.numbers]
    assert sorted(m.name for ms in of_each for m in ms) == sorted(m.name for m in default_markets())


@pytest.mark.parametrize(
    "text",
    [
        "0=BTC_USDC",
        "1=*",
        "0=*;2=SOL_*",
        "0=*;0=SOL_*",
        "0=*;1=SOL_*,SOL_*",
        "0=*;1=SOL*USDC",
        "0=*;1=",
        "*",
        "a=*",
        ";".join(["0=*", *(f"{n}=M{n}" for n in range(1, 33))]),
    ],
)
def test_a_map_that_says_nothing_clear_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValidationError):
        load_settings(shards=text)


def test_addresses_and_endpoints_are_by_shard() -> None:
    settings = load_settings(
        shards="0=*;1=SOL_*",
        engine_address="0=10.0.0.1:50152,10.0.0.2:50152;1=10.0.0.3:50152",
        marketdata_address="0=10.0.0.1:50153;1=dns:///marketdata:50153",
    )
    assert settings.address_of("engine", 1) == "10.0.0.3:50152"
    assert settings.address_of("marketdata", 1) == "dns:///marketdata:50153"
    assert settings.shard_map.endpoints[0] == ("10.0.0.1:50052", "10.0.0.2:50052")
    told = load_settings(shards="0=*;1=SOL_*", engine_endpoints="0=a.example:1;1=b.example:2")
    refused = told.shard_map.elsewhere(1, "market")
    assert refused.reason is Reason.WRONG_SHARD
    assert refused.details == {"shard": "1", "endpoints": "b.example:2"}
