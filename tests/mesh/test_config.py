"""Settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mesh.config import Settings, describe, environment_of, load_settings


def test_the_documented_ports_are_the_defaults() -> None:
    settings = load_settings()
    assert (settings.http_port, settings.grpc_port) == (8080, 50050)
    services = ("auth", "engine", "marketdata", "settlement")
    assert [settings.public_port(name) for name in services] == [50051, 50052, 50053, 50054]
    assert [settings.internal_port(name) for name in services] == [50151, 50152, 50153, 50154]
    assert settings.address_of("engine") == "127.0.0.1:50152"


def test_the_environment_sets_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEBOOK_HTTP_PORT", "9000")
    monkeypatch.setenv("TIDEBOOK_DATA_DIR", "/srv/tidebook")
    monkeypatch.setenv("TIDEBOOK_ENGINE_ADDRESS", "10.0.0.1:1,10.0.0.2:1")
    settings = load_settings(http_port=9001)
    assert settings.http_port == 9001
    assert settings.data_dir == Path("/srv/tidebook")
    assert settings.address_of("engine") == "10.0.0.1:1,10.0.0.2:1"
    rows = {row.variable: row for row in describe(settings, arguments=frozenset({"http_port"}))}
    assert rows["TIDEBOOK_HTTP_PORT"].source == "argument"
    assert rows["TIDEBOOK_DATA_DIR"].source == "environment"
    assert rows["TIDEBOOK_GRPC_PORT"].source == "default"


def test_every_setting_is_described() -> None:
    for row in describe(load_settings()):
        assert row.description.endswith("."), row.variable


def test_passwords_are_not_shown() -> None:
    settings = load_settings(
        postgres_url="postgresql://tidebook:hunter2@db/tidebook", redis_url="redis://:hunter2@r:1"
    )
    assert "hunter2" not in str(describe(settings))


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEBOOK_HTTP_PORT", "eighty")
    with pytest.raises(ValidationError):
        load_settings()
    with pytest.raises(ValidationError):
        load_settings(no_such_setting=1)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load_settings().http_port = 1  # type: ignore[misc]


def test_a_child_process_sees_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(shard=2, faucet_max_per_day="USDC=1", bots=False)
    environment = environment_of(settings, {"redis_url": "unix:///run/valkey.sock"})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected = settings.model_copy(update={"redis_url": "unix:///run/valkey.sock"})
    assert Settings() == expected


def test_demo_mode_has_bots_and_a_faucet_and_production_neither() -> None:
    assert load_settings(mode="demo").bots_enabled
    assert load_settings(mode="demo").faucet_enabled
    assert not load_settings(mode="production").bots_enabled
    assert not load_settings(mode="production").faucet_enabled
    assert load_settings(mode="production", bots=True).bots_enabled


@pytest.mark.parametrize(
    ("required", "settings"),
    [
        (False, {"mode": "demo", "http_host": "0.0.0.0", "trusted_proxies": "10.0.0.1"}),
        (True, {"mode": "production", "http_host": "0.0.0.0"}),
        (True, {"mode": "production", "trusted_proxies": "127.0.0.1"}),
        # What only this machine reaches goes over no wire.
        (False, {"mode": "production"}),
        (False, {"mode": "production", "http_host": "::1"}),
        (False, {"mode": "production", "http_host": "0.0.0.0", "https_only": False}),
        (True, {"mode": "demo", "https_only": True}),
    ],
)
def test_production_takes_plain_http_from_its_own_machine_alone(
    required: bool, settings: dict[str, Any]
) -> None:
    assert load_settings(**settings).https_required is required


@pytest.mark.parametrize(
    "text", ["USDC:5000", "USDC", "USDC=", "USDC=5e3", "USDC=-1", "usdc=1", "USDC=1,USDC=2"]
)
def test_amounts_that_cannot_be_read_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("TIDEBOOK_PLAY_BALANCE", text)
    with pytest.raises(ValidationError, match="play_balance"):
        load_settings()


def test_faucet_limits_are_decimal_strings() -> None:
    settings = load_settings(faucet_max_per_deposit="USDC=10.5, BTC=0.1")
    assert settings.faucet_limits()[0] == {"USDC": "10.5", "BTC": "0.1"}
