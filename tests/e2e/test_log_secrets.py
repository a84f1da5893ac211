"""A whole visit, through the gateway and everything behind it: no service logs a secret of it."""

from __future__ import annotations

import aiohttp
import grpc
import pyotp
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc

from examples.client import Endpoints, HttpApi
from tests.support import Exchange, eventually

EMAIL, PASSWORD, WRONG = "logs@example.com", "a-lantern-under-water", "a-lantern-above-water"


async def test_no_service_logs_a_secret_of_a_whole_visit(exchange: Exchange) -> None:
    endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
    secrets = {PASSWORD, WRONG}

    def folder() -> str:
        return "".join(path.read_text() for path in (exchange.data_dir / "logs").glob("*.log"))

    async with (
        HttpApi(endpoints) as http,
        # Cookies of an address are kept only by those who say so.
        aiohttp.ClientSession(
            exchange.http_url, cookie_jar=aiohttp.CookieJar(unsafe=True)
        ) as browser,
        grpc.aio.insecure_channel(exchange.grpc_address) as door,
    ):
        credentials = {"email": EMAIL, "password": PASSWORD}
        await http.call("POST", "/v1/auth/signup", credentials)
        code = await http.mailed_code(EMAIL)
        wrong_code = f"{(int(code) + 1) % 10**6:06}"
        body = {"email": EMAIL, "code": wrong_code}
        async with browser.post("/v1/auth/verify-otp", json=body) as answer:
            assert answer.status == 400
        opened = await http.call("POST", "/v1/auth/verify-otp", {"email": EMAIL, "code": code})
        token: str = opened["tokens"]["accessToken"]
        secrets |= {token, *opened["tokens"]["refreshToken"].split(".")[2:]}
        async with browser.post(
            "/v1/auth/signin", json=credentials | {"password": WRONG}
        ) as answer:
            assert answer.status == 401
        as_cookies = {"X-Tidebook-Session": "cookie"}
        async with browser.post("/v1/auth/signin", json=credentials, headers=as_cookies) as answer:
            assert answer.status == 200
            jar = {name: cookie.value for name, cookie in answer.cookies.items()}
        csrf = {"X-CSRF-Token": jar["tidebook_csrf"]}
        async with browser.post("/v1/auth/refresh", headers=csrf) as answer:
            assert answer.status == 200
            jar |= {name + "-2": cookie.value for name, cookie in answer.cookies.items()}
        for name, value in jar.items():
            secrets |= set(value.split(".")[2:]) if "refresh" in name else {value}
        key = await http.call(
            "POST",
            "/v1/auth/api-keys",
            {"name": "bot", "scopes": ["SCOPE_READ"], "ipAllowList": ["192.0.2.1"]},
            token=token,
        )
        secrets.add(key["secret"])
        totp = await http.call("POST", "/v1/auth/totp", {"password": PASSWORD}, token=token)
        secrets.add(totp["secret"])
        confirmed = await http.call(
            "POST",
            "/v1/auth/totp:confirm",
            {"code": pyotp.TOTP(totp["secret"]).now()},
            token=token,
        )
        secrets |= set(confirmed["recoveryCodes"])
        recovered = credentials | {"recoveryCode": confirmed["recoveryCodes"][0]}
        await http.call("POST", "/v1/auth/signin", recovered)
        stub = auth_pb2_grpc.AuthServiceStub(door)
        request = auth_pb2.ExchangeApiKeyRequest(
            api_key_id=key["apiKey"]["apiKeyId"], secret=key["secret"]
        )
        assert await stub.ExchangeApiKey(request).code() is grpc.StatusCode.PERMISSION_DENIED
        async with http.websocket() as socket:
            await socket.send_json({"id": 1, "auth": {"accessToken": token}})
            await socket.send_json({"id": 2, "auth": {"accessToken": token + "x"}})
            await socket.receive_json()
            assert "error" in await socket.receive_json()
        async with browser.get("/v1/account", headers={"Authorization": f"Bearer {token}x"}) as a:
            assert a.status == 401
        user_id = opened["user"]["userId"]
        await http.call("POST", "/v1/auth/signout", {}, token=token)

    # The last of it has been written: then all of it has.
    await eventually(lambda: f"user_id={user_id}" in folder().rpartition("signed_out")[2])
    logs = folder()
    assert "session_opened" in logs
    assert [secret for secret in secrets if secret in logs] == []
    # Six digits are in many a number; codes are told apart by their names.
    assert f"code={code}" not in logs
    assert f"code is {code}" not in logs
