"""What browsers meet: cookies, CSRF, CORS, security headers, the page, the documentation."""

from __future__ import annotations

from http.cookies import SimpleCookie
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.gateway.conftest import Start, World

SIGN_IN = {"email": "a@example.org", "password": "correct horse"}
WANTS_COOKIES = {"X-Tidebook-Session": "cookie"}


def cookies_of(answer: aiohttp.ClientResponse) -> SimpleCookie:
    cookies: SimpleCookie = SimpleCookie()
    for line in answer.headers.getall("Set-Cookie", []):
        cookies.load(line)
    return cookies


async def signed_in(http: aiohttp.ClientSession) -> dict[str, str]:
    async with http.post("/v1/auth/signin", json=SIGN_IN, headers=WANTS_COOKIES) as answer:
        return {name: morsel.value for name, morsel in cookies_of(answer).items()}


def cookie_header(cookies: dict[str, str]) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


async def test_tokens_are_in_the_body_unless_cookies_are_asked_for(
    world: World, http: aiohttp.ClientSession
) -> None:
    async with http.post("/v1/auth/signin", json=SIGN_IN) as answer:
        assert (await answer.json())["tokens"]["refreshToken"] == "refresh-0"
        assert "Set-Cookie" not in answer.headers
    async with http.post("/v1/auth/signin", json=SIGN_IN, headers=WANTS_COOKIES) as answer:
        tokens = (await answer.json())["tokens"]
        assert tokens["accessToken"] == tokens["refreshToken"] == ""
        assert tokens["accessExpireTime"]
        cookies = cookies_of(answer)
    for name in ("tidebook_access", "tidebook_refresh"):
        assert cookies[name]["httponly"]
        assert cookies[name]["samesite"] == "Strict"
    assert not cookies["tidebook_csrf"]["httponly"], "scripts of the page must read it"
    assert cookies["tidebook_refresh"]["path"] == "/v1/auth"
    assert world.auth.metadata["grpcgateway-user-agent"].startswith("Python")


async def test_cookies_are_secure_behind_a_trusted_https_proxy(start_world: Start) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6, 9.9.9.9"}
    for trusted, secure, seen in (("127.0.0.1", True, "9.9.9.9"), ("", False, "127.0.0.1")):
        world = await start_world(trusted_proxies=trusted)
        async with (
            aiohttp.ClientSession(world.url) as http,
            http.post("/v1/auth/signin", json=SIGN_IN, headers=WANTS_COOKIES | forwarded) as answer,
        ):
            cookies = cookies_of(answer)
            assert len(cookies) == 3
            for name, cookie in cookies.items():
                # Browsers take a `__Host-` cookie only when it is secure, for / and for no domain.
                assert name.startswith("__Host-") is secure
                assert bool(cookie["secure"]) is secure
                assert not cookie["domain"]
                assert not secure or cookie["path"] == "/"
            hsts = answer.headers.get("Strict-Transport-Security")
            assert hsts == ("max-age=31536000; includeSubDomains" if secure else None)
        assert world.auth.metadata["x-forwarded-for"] == seen


async def test_what_comes_by_plain_http_is_refused_or_sent_to_https(start_world: Start) -> None:
    world = await start_world(https_only=True, trusted_proxies="127.0.0.1")
    async with aiohttp.ClientSession(world.url) as http:
        for method, path, host, location in (
            ("GET", "/", "ex.example", "https://ex.example/"),
            ("GET", "/docs?a=b", "ex.example:8080", "https://ex.example/docs?a=b"),
            ("HEAD", "//evil.example/", "[::1]:80", "https://[::1]/evil.example/"),
            ("GET", "/", "ex.example/@evil.example", None),
            ("POST", "/", "ex.example", None),
            ("GET", "/v1/markets", "ex.example", None),
            ("POST", "/v1/auth/signin", "ex.example", None),
            ("GET", "/dev/mailbox", "ex.example", None),
            ("OPTIONS", "/v1/orders", "ex.example", None),
            ("GET", "/ws", "ex.example", None),
        ):
            async with http.request(
                method,
                URL(world.url + path, encoded=True),
                headers={"Host": host, "X-Forwarded-Proto": "http"},
                allow_redirects=False,
            ) as answer:
                assert answer.headers.get("Location") == location, path
                assert answer.status == (308 if location else 403), path
                assert "Strict-Transport-Security" not in answer.headers
                if location is None:
                    body = await answer.json()
                    assert body["details"][0]["reason"] == "HTTPS_REQUIRED"
        assert world.auth.metadata == {}, "a password that came by plain HTTP goes no further"
        for path in ("/healthz", "/readyz"):
            async with http.get(path) as answer:
                assert answer.status == 200, "who watches it asks from inside"
        https = {"X-Forwarded-Proto": "https"}
        for path in ("/v1/markets", "/docs"):
            async with http.get(path, headers=https) as answer:
                assert answer.status == 200
                assert answer.headers["Strict-Transport-Security"]


async def test_over_https_only_the_cookies_of_this_very_host_count(start_world: Start) -> None:
    """A neighbour under the same domain can set `tidebook_csrf`, but not `__Host-...`."""
    world = await start_world(trusted_proxies="127.0.0.1")
    https = {"X-Forwarded-Proto": "https"}
    async with aiohttp.ClientSession(world.url, cookie_jar=aiohttp.DummyCookieJar()) as http:
        async with http.post("/v1/auth/signin", json=SIGN_IN, headers=WANTS_COOKIES | https) as a:
            cookies = {name: morsel.value for name, morsel in cookies_of(a).items()}
        slipped_in = {name.removeprefix("__Host-"): value for name, value in cookies.items()}
        csrf = {"X-CSRF-Token": cookies["__Host-tidebook_csrf"]}
        for jar, status in ((cookies, 200), (slipped_in, 401)):
            headers = https | csrf | cookie_header(jar)
            async with http.get("/v1/auth/me", headers=headers) as answer:
                assert answer.status == status
        headers = https | csrf | cookie_header(cookies)
        async with http.post("/v1/auth/refresh", headers=headers) as answer:
            assert answer.status == 200
        async with http.post("/v1/auth/signout", json={}, headers=headers) as answer:
            cleared = cookies_of(answer)
    assert set(cleared) == set(cookies)
    assert all(morsel["secure"] and morsel["max-age"] == "0" for morsel in cleared.values())


async def test_a_new_session_of_a_browser_ends_the_one_of_before(
    world: World, http: aiohttp.ClientSession
) -> None:
    cookies = await signed_in(http)
    headers = WANTS_COOKIES | cookie_header(cookies)
    csrf = {"X-CSRF-Token": cookies["tidebook_csrf"]}
    wrong = {"email": "a@example.org", "password": "wrong"}
    for body, more, ended in (
        (wrong, csrf, 0),
        # A neighbour under the same domain cannot end it by signing its visitor in.
        (SIGN_IN, {}, 0),
        (SIGN_IN, csrf, 1),
        # It has ended already; the new one is opened all the same.
        (SIGN_IN, csrf, 1),
    ):
        async with http.post("/v1/auth/signin", json=body, headers=headers | more) as answer:
            assert answer.status == (401 if body is wrong else 200)
        assert world.auth.signed_out == ended


async def test_a_cookie_call_that_changes_something_needs_the_csrf_token(
    http: aiohttp.ClientSession,
) -> None:
    cookies = await signed_in(http)
    order = {"market": "A", "side": 1, "type": 1}
    headers = cookie_header(cookies)
    async with http.get("/v1/auth/me", headers=headers) as answer:
        assert answer.status == 200, "reading needs none"
    wrong: list[dict[str, str]] = [{}, {"X-CSRF-Token": "guess"}, {"X-CSRF-Token": ""}]
    for more in wrong:
        async with http.post("/v1/orders", json=order, headers=headers | more) as answer:
            assert answer.status == 403
            assert (await answer.json())["details"][0]["reason"] == "CSRF_FAILED"
    good = headers | {"X-CSRF-Token": cookies["tidebook_csrf"]}
    async with http.post("/v1/orders", json=order, headers=good) as answer:
        assert answer.status == 200


async def test_a_bearer_header_needs_no_csrf_token(
    world: World, http: aiohttp.ClientSession
) -> None:
    cookies = cookie_header(await signed_in(http))
    order = {"market": "A", "side": 1, "type": 1}
    async with http.post("/v1/orders", json=order, headers=cookies | world.bearer()) as answer:
        assert answer.status == 200


async def test_refresh_takes_the_cookie_and_renews_it(http: aiohttp.ClientSession) -> None:
    cookies = await signed_in(http)
    headers = cookie_header(cookies)
    async with http.post("/v1/auth/refresh", headers=headers) as answer:
        assert answer.status == 403
    headers["X-CSRF-Token"] = cookies["tidebook_csrf"]
    async with http.post("/v1/auth/refresh", headers=headers) as answer:
        assert answer.status == 200
        assert (await answer.json())["tokens"]["refreshToken"] == ""
        assert cookies_of(answer)["tidebook_refresh"].value == "refresh-1"
    async with http.post("/v1/auth/refresh", headers=headers) as answer:
        assert (await answer.json())["details"][0]["reason"] == "SESSION_REVOKED"


async def test_signing_out_clears_the_cookies(http: aiohttp.ClientSession) -> None:
    cookies = await signed_in(http)
    headers = cookie_header(cookies) | {"X-CSRF-Token": cookies["tidebook_csrf"]}
    async with http.post("/v1/auth/signout", json={}, headers=headers) as answer:
        assert answer.status == 200
        cleared = cookies_of(answer)
    assert all(morsel["max-age"] == "0" for morsel in cleared.values())
    assert set(cleared) == {"tidebook_access", "tidebook_refresh", "tidebook_csrf"}


async def test_only_listed_origins_may_read_across_origins(start_world: Start) -> None:
    world = await start_world(cors_origins="https://friend.example")
    preflight = {"Access-Control-Request-Method": "POST"}
    async with aiohttp.ClientSession(world.url) as http:
        for origin, allowed in (("https://friend.example", True), ("https://evil.example", False)):
            headers = {"Origin": origin}
            async with http.options("/v1/orders", headers=headers | preflight) as answer:
                assert (answer.status == 204) is allowed
                assert ("Access-Control-Allow-Origin" in answer.headers) is allowed
            async with http.get("/v1/markets", headers=headers) as answer:
                assert ("Access-Control-Allow-Origin" in answer.headers) is allowed


@pytest.mark.parametrize("path", ["/v1/markets", "/v1/nothing", "/", "/healthz", "/docs"])
async def test_every_response_has_the_security_headers(
    http: aiohttp.ClientSession, path: str
) -> None:
    async with http.get(path) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe-inline" not in answer.headers["Content-Security-Policy"].split("style")[0]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "base-uri 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Server"] == "tidebook"
        kind = answer.headers["Content-Type"]
        assert kind == "application/json" or kind.endswith("; charset=utf-8")
    async with http.request("TRACE", path) as answer:
        assert answer.status in (404, 405, 501)


async def test_nothing_of_the_api_is_kept_in_a_cache(
    world: World, http: aiohttp.ClientSession
) -> None:
    for path, headers in (("/v1/auth/me", world.bearer()), ("/v1/auth/me", {}), ("/v1/no", {})):
        async with http.get(path, headers=headers) as answer:
            assert answer.headers["Cache-Control"] == "no-store"


async def test_the_page_and_its_routes_are_served(
    world: World, http: aiohttp.ClientSession
) -> None:
    async with http.get("/") as answer:
        assert "make web" in await answer.text()
    folder: Path = world.settings.web_dir
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<title>the page</title>")
    (folder / "assets" / "app-1.js").write_text("let x = 1;" * 500)
    (folder.parent / "secret.txt").write_text("secret")
    for path in ("/", "/markets/BTC_USDC"):
        async with http.get(path) as answer:
            assert "the page" in await answer.text()
            assert answer.headers["Cache-Control"] == "no-cache"
    async with http.get("/assets/app-1.js") as answer:
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Encoding"] == "gzip"
        etag = answer.headers["ETag"]
    async with http.get("/assets/app-1.js", headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304
    for path in ("/assets/missing.js", "/%2e%2e/secret.txt", "/..%2fsecret.txt"):
        async with http.get(path) as answer:
            assert answer.status == 404
            assert (await answer.json())["code"] == 5
    async with http.post("/") as answer:
        assert answer.status == 404


async def test_documentation_needs_nothing_from_elsewhere(
    http: aiohttp.ClientSession, world: World
) -> None:
    for path in ("/docs", "/docs/docs.js", "/docs/style.css"):
        async with http.get(path) as answer:
            assert answer.status == 200
            assert "https://" not in await answer.text()
    async with http.get("/openapi.json") as answer:
        document = await answer.json()
    assert document["openapi"] == "3.1.0"
    place = document["paths"]["/v1/orders"]["post"]
    assert place["operationId"] == "OrderService_PlaceOrder"
    assert "client_order_id" in place["description"]
    schema = document["components"]["schemas"]["engine.v1.PlaceOrderRequest"]
    assert schema["required"] == ["market", "side", "type"]
    assert schema["properties"]["market"]["pattern"] == "^[A-Z0-9_]{1,32}$"


async def test_metrics_are_for_who_is_listed(start_world: Start) -> None:
    """By default for this machine, and behind a proxy by the address of the client."""
    world = await start_world(trusted_proxies="127.0.0.1", https_only=True)
    async with aiohttp.ClientSession(world.url) as http:
        for client, status in (("127.0.0.1", 200), ("10.9.8.7", 404), ("198.51.100.7", 404)):
            async with http.get("/metrics", headers={"X-Forwarded-For": client}) as answer:
                assert answer.status == status, client
                assert ("tidebook_http" in await answer.text()) is (status == 200)
        async with http.get("/metrics", headers={"X-Forwarded-Proto": "https"}) as answer:
            assert answer.status == 404, "a proxy that does not say for whom"
        async with http.get("/metrics") as answer:
            assert answer.status == 200
    elsewhere = await start_world(metrics_from="10.0.0.0/8", trusted_proxies="127.0.0.1")
    async with aiohttp.ClientSession(elsewhere.url) as http:
        for client, status in (("10.9.8.7", 200), ("127.0.0.2", 404)):
            async with http.get("/metrics", headers={"X-Forwarded-For": client}) as answer:
                assert answer.status == status, client


async def test_metrics_count_by_route(http: aiohttp.ClientSession) -> None:
    for path in ("/v1/markets/NOPE", "/v1/made/up"):
        async with http.get(path):
            pass
    async with http.get("/metrics") as answer:
        text = await answer.text()
    assert 'requests_total{route="GET /v1/markets/{market}",status="404"} 1' in text
    assert "made" not in text, "labels are routes and never paths"
    assert 'request_seconds_bucket{route="GET /v1/markets/{market}",le="+Inf"} 1' in text
