"""A system with two gateways behind one port: what one knows both know, and one may be killed."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import aiohttp
import grpc
import pytest
from tidebook.engine.v1 import market_pb2, market_pb2_grpc

from examples.client import Endpoints, HttpApi, Person
from mesh.config import GATEWAY_PORT_OFFSET, load_settings
from ops.plan import make_plan
from tests.ops.test_exchange import is_ready, pids, tidebook
from tests.support import Exchange, eventually, running_exchange
from tests.support.exchange import PORT_OFFSETS
from tests.support.ports import free_ports

PER_HOUR = 100


def test_gateways_share_their_ports_and_have_one_of_their_own(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, http_port=18080, gateway_processes=2, bots=False)
    plan = make_plan(settings)
    first, second = plan.waves[-1]
    assert (first.name, second.name) == ("gateway", "gateway-2")
    for spec in (first, second):
        assert spec.environment["TIDEBOOK_HTTP_PORT"] == "18080"
        assert spec.environment["TIDEBOOK_GATEWAY_PROCESSES"] == "2"
    assert second.environment["TIDEBOOK_GATEWAY_PROCESS"] == "1"
    assert second.probe is not None
    assert second.probe.target == "http://127.0.0.1:18131/readyz"
    assert {18080, 18130, 18131} <= {listener.port for listener in plan.listeners}


@pytest.mark.timeout(240)
async def test_two_gateways_are_one_to_their_clients(short_dir: Path) -> None:
    own = (GATEWAY_PORT_OFFSET, GATEWAY_PORT_OFFSET + 1)
    async with running_exchange(
        short_dir,
        port_base=free_ports((*PORT_OFFSETS, *own)),
        TIDEBOOK_BOTS="false",
        TIDEBOOK_GATEWAY_PROCESSES="2",
        TIDEBOOK_RATE_LIMIT_ACCOUNT=f"{PER_HOUR}/hour",
    ) as exchange:
        assert await is_ready(exchange)
        gateways = [f"http://127.0.0.1:{exchange.port_base + offset}" for offset in own]
        await sessions_hold_across(exchange, gateways)
        await limits_hold_across(exchange, gateways)
        await both_get_connections(exchange, gateways)
        await one_may_be_killed(exchange, gateways)


async def sessions_hold_across(exchange: Exchange, gateways: list[str]) -> None:
    """A session that begins at one gateway is known to the other, and so is its end."""
    async with HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as api:
        person = await Person.sign_up(api, name="two")
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        body = {"email": person.email, "password": person.password}
        headers = {"X-Tidebook-Session": "cookie"}
        url = f"{gateways[0]}/v1/auth/signin"
        async with browser.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
        csrf = {cookie.key: cookie.value for cookie in jar}["tidebook_csrf"]
        for gateway in gateways:
            async with browser.get(f"{gateway}/v1/auth/me") as answer:
                assert (await answer.json())["user"]["email"] == person.email
        for gateway in reversed(gateways):
            async with browser.post(
                f"{gateway}/v1/auth/refresh", json={}, headers={"X-CSRF-Token": csrf}
            ) as answer:
                assert answer.status == 200, await answer.text()
            csrf = {cookie.key: cookie.value for cookie in jar}["tidebook_csrf"]
        old = list(jar)
        async with browser.post(
            f"{gateways[1]}/v1/auth/signout", json={}, headers={"X-CSRF-Token": csrf}
        ) as answer:
            assert answer.status == 200, await answer.text()
        cookies = "; ".join(f"{cookie.key}={cookie.value}" for cookie in old)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as thief:
            url, sent = f"{gateways[0]}/v1/auth/refresh", {"Cookie": cookies, "X-CSRF-Token": csrf}
            async with thief.post(url, json={}, headers=sent) as answer:
                assert answer.status == 401


async def limits_hold_across(exchange: Exchange, gateways: list[str]) -> None:
    """Two gateways do not make twice the rate."""
    async with HttpApi(Endpoints(exchange.http_url, exchange.grpc_address)) as api:
        person = await Person.sign_up(api, name="limits")
        headers = {"Authorization": f"Bearer {await person.token()}"}
    passed = 0
    async with aiohttp.ClientSession(headers=headers) as http:
        refused_by: set[str] = set()
        for gateway in itertools.islice(itertools.cycle(gateways), 2 * PER_HOUR):
            async with http.get(f"{gateway}/v1/account") as answer:
                if answer.status == 429:
                    assert int(answer.headers["Retry-After"]) >= 1
                    refused_by.add(gateway)
                else:
                    assert answer.status == 200
                    passed += 1
    assert refused_by == set(gateways)
    # Signing up has cost a few, and the hour goes on meanwhile.
    assert PER_HOUR // 2 < passed <= PER_HOUR + 5


async def requests_of(gateway: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{gateway}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    name = 'tidebook_http_requests_total{route="GET /v1/markets",'
    return sum(int(line.split()[-1]) for line in lines if line.startswith(name))


async def ask(exchange: Exchange) -> None:
    """Over a connection of its own, as a new client comes."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{exchange.http_url}/v1/markets") as answer,
    ):
        assert answer.status == 200


async def both_get_connections(exchange: Exchange, gateways: list[str]) -> None:
    for _ in range(60):
        await ask(exchange)
    assert all([await requests_of(gateway) > 0 for gateway in gateways])


async def one_may_be_killed(exchange: Exchange, gateways: list[str]) -> None:
    before = pids(exchange)
    os.kill(before["gateway-2"], signal.SIGKILL)
    await eventually(lambda: "gateway-2 ended" in "".join(exchange.output))
    for _ in range(20):
        await ask(exchange)
    async with grpc.aio.insecure_channel(exchange.grpc_address) as door:
        await market_pb2_grpc.MarketServiceStub(door).ListMarkets(market_pb2.ListMarketsRequest())

    async def is_back() -> None:
        after = pids(exchange)
        assert after["gateway-2"] != before["gateway-2"]
        assert after["gateway"] == before["gateway"]
        async with aiohttp.ClientSession() as http, http.get(f"{gateways[1]}/readyz") as answer:
            assert answer.status == 200

    await eventually(is_back, timeout_s=60)
    assert tidebook(exchange, "status").returncode == 0
