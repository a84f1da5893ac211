"""What the compose files ask for, read as compose reads them: nothing here runs a container."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.config import Settings
from mesh.settings_common import ENV_PREFIX

ROOT = Path(__file__).resolve().parents[2]
# The innermost ones; one may be the default of another.
_VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^{}]*)\}")
Json = dict[str, Any]


def interpolated(value: Any, environment: dict[str, str]) -> Any:
    """A document with its variables put in."""
    if isinstance(value, dict):
        return {key: interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, environment) for item in value]
    if isinstance(value, str):
        inside = _VARIABLE.sub(lambda found: environment.get(found[1]) or found[2], value)
        return inside if inside == value else interpolated(inside, environment)
    return value


def composed(*names: str, **environment: str) -> Json:
    """The files on top of one another, with variables put in: the services of these profiles."""
    services: Json = {}
    volumes: set[str] = set()
    for name in names:
        document = interpolated(yaml.safe_load((ROOT / name).read_text()), environment)
        volumes |= set(document["volumes"])
        for service, wanted in document["services"].items():
            known = services.setdefault(service, {})
            for key, value in wanted.items():
                both = isinstance(value, dict) and isinstance(known.get(key), dict)
                known[key] = known[key] | value if both else value
    profiles = set(environment.get("COMPOSE_PROFILES", "").split(","))
    active = {
        name: service
        for name, service in services.items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    for name, service in active.items():
        for needed in service.get("depends_on", {}):
            assert needed in active, f"{name} waits for {needed}, which does not run"
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in volumes, f"{name} has no volume {volume}"
    return active


def settings_of(service: Json, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a service makes of its environment; unknown variables and bad values raise."""
    with monkeypatch.context() as patch:
        for name, value in service["environment"].items():
            assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, name
            patch.setenv(name, value)
        return Settings()


PARTS = {"postgres", "valkey", "jaeger", "migrate", "auth", "settlement", "engine", "marketdata"}
PARTS |= {"gateway"}


@pytest.mark.parametrize(
    ("profile", "mode", "more"),
    [
        ("", "production", set()),
        ("dev", "dev", {"mailbox"}),
        ("demo", "demo", {"mailbox", "bots"}),
    ],
)
def test_bots_and_mailbox_run_where_they_belong(
    profile: str, mode: str, more: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed("docker-compose.yml", COMPOSE_PROFILES=profile)
    assert set(services) == PARTS | more
    for name, service in services.items():
        if service.get("image") != "tidebook":
            continue
        settings = settings_of(service, monkeypatch)
        assert settings.mode == mode, name
        assert settings.faucet_enabled is (mode != "production")
        assert settings.https_required is (mode == "production")


def test_production_has_no_password_that_everybody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment, password in (
        # The image of PostgreSQL refuses to start with an empty one.
        ({}, ""),
        ({"POSTGRES_PASSWORD": "chosen"}, "chosen"),
        ({"COMPOSE_PROFILES": "demo"}, "demo"),
    ):
        services = composed("docker-compose.yml", "docker-compose.shards.yml", **environment)
        assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == password
        for name in ("auth", "engine", "engine-1"):
            settings = settings_of(services[name], monkeypatch)
            assert settings.postgres_url == f"postgresql://tidebook:{password}@postgres/tidebook"
            assert settings.https_required is ("COMPOSE_PROFILES" not in environment)


def test_production_mails_through_a_server_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "smtps://us:secret@mail.example.org:465"
    services = composed("docker-compose.yml", TIDEBOOK_SMTP_URL=url)
    assert settings_of(services["auth"], monkeypatch).smtp_url == url


def test_every_part_is_reached_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed("docker-compose.yml")
    settings = settings_of(services["gateway"], monkeypatch)
    for name in ("auth", "engine", "marketdata", "settlement"):
        port = settings.internal_port(name)
        assert settings.address_of(name) == f"{name}:{port}"
        assert services[name]["command"] == ["serve", name]
        assert services[name]["healthcheck"]["test"][-1].endswith(f":{settings.public_port(name)}")


def test_two_shards_have_an_engine_and_market_data_each(monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed("docker-compose.yml", "docker-compose.shards.yml", COMPOSE_PROFILES="demo")
    assert set(services) == PARTS | {"mailbox", "bots", "engine-1", "marketdata-1"}
    assert "engine-1" in services["gateway"]["depends_on"]
    for name in ("auth", "settlement", "engine", "engine-1", "marketdata-1", "gateway", "bots"):
        settings = settings_of(services[name], monkeypatch)
        assert settings.shard == (1 if name.endswith("-1") else 0)
        assert list(settings.shard_map.numbers) == [0, 1]
        for service, port in (("engine", 50152), ("marketdata", 50153)):
            assert settings.address_of(service, 0) == f"{service}:{port}"
            assert settings.address_of(service, 1) == f"{service}-1:{port}"
    assert services["engine"]["volumes"] != services["engine-1"]["volumes"]
