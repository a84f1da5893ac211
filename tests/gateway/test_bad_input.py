"""Bad input to every operation of the document: a specific error each time, and no service asked.

The services here have next to no methods: what gets as far as one of them is a 501.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.tokens import TokenSigner
from tests.gateway.conftest import World
from tests.support.operations import Operation, Schema, operations, resolved


def wrong_json(schema: Schema) -> Iterator[Any]:
    """Values that are not what a schema asks for."""
    own = resolved(schema)
    kind = own.get("type")
    if kind == "array":
        yield from ("x", 5, {"a": 1})
        yield from ([wrong] for wrong in wrong_json(own["items"]) if wrong is not None)
    elif kind == "object":
        yield from (5, "x", True)
    elif kind == "boolean":
        yield from ("yes", 1, [True], {})
    elif "enum" in own:
        yield from ("NONSENSE", 10**12, 1.5, True, [1], {})
    elif kind == "integer":
        yield from ("x", 1.5, 10**30, True, [1], {})
    elif own.get("format") in ("int64", "uint64"):
        yield from ("x", 1.5, str(1 << 64), 10**30, True, [1], {})
    elif own.get("format") == "date-time":
        yield from ("tomorrow", "99999-01-01T00:00:00Z", 5, True, {})
    else:
        yield from (5, 1.5, True, ["x"], {})


def wrong_text(schema: Schema) -> Iterator[str]:
    """Texts of a path or query that are not what a schema asks for."""
    own = resolved(schema)
    if own.get("type") == "array":
        yield from wrong_text(own["items"])
    elif own.get("type") == "boolean":
        yield from ("yes", "2")
    elif "enum" in own:
        yield from ("NONSENSE", "1.5", "99999999999", "%00")
    elif own.get("type") == "integer" or own.get("format") in ("int64", "uint64"):
        yield from ("x", "1.5", "1e3", "0x1", "9" * 30, "%20", "%00", "%E4")
    elif own.get("format") == "date-time":
        yield from ("tomorrow", "5")


class Client:
    """Sends bad requests, and notes those whose answer is not what was expected."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.sent = 0
        self.surprises: list[str] = []

    async def expect(
        self,
        operation: Operation,
        url: str,
        *,
        status: int = 400,
        reasons: tuple[str, ...] = ("INVALID_ARGUMENT",),
        field: str | None = None,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.sent += 1
        async with self._session.request(
            operation.method, url, data=data, headers=headers
        ) as answer:
            text = await answer.text()
        body = json.loads(text)
        error = body.get("error", body)
        details = error["details"]
        # A stream has begun when the refusal is long in coming: then it is its last line.
        statuses = (status, 200) if "error" in body else (status,)
        given = details[0].get("metadata", {}).get("field", "")
        if (
            answer.status not in statuses
            or details[0]["reason"] not in reasons
            or not error["message"]
            or (field is not None and given.partition("[")[0].partition(".")[0] not in names(field))
        ):
            what = (data or b"")[:100]
            self.surprises.append(f"{operation} {url} {what!r}: {answer.status} {text[:300]}")


def names(field: str) -> set[str]:
    """A field by its JSON and its original name."""
    original = "".join(f"_{c.lower()}" if c.isupper() else c for c in field)
    return {field, original, field.partition(".")[0]}


@pytest.fixture
def client(http: aiohttp.ClientSession) -> Client:
    return Client(http)


def with_bodies() -> list[Operation]:
    return [operation for operation in operations() if operation.body is not None]


async def test_malformed_json(world: World, client: Client) -> None:
    bodies = [
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"[]",
        b'"text"',
        b"null",
        b"5",
        b"{} {}",
        b"[" * 9999,
    ]
    bodies += [b'{"\\ud800": 1}', b'{"a": NaN}', b'{"a": 1e999}', b"'a'"]
    for operation in with_bodies():
        for data in bodies:
            await client.expect(operation, operation.url(), data=data, headers=world.bearer())
    assert client.surprises == []
    assert client.sent > 300


async def test_unknown_fields_and_names_given_twice(world: World, client: Client) -> None:
    for operation in with_bodies():
        url, headers = operation.url(), world.bearer()
        await client.expect(
            operation, url, data=b'{"nonsense": 1}', field="nonsense", headers=headers
        )
        for name in (operation.body or {}).get("properties", {}):
            data = f'{{"{name}": null, "{name}": null}}'.encode()
            await client.expect(operation, url, data=data, field=name, headers=headers)
    for operation in operations():
        if operation in with_bodies():
            continue
        url = operation.url() + "?nonsense=1"
        await client.expect(operation, url, field="nonsense", headers=world.bearer())
    assert client.surprises == []


async def test_wrong_types_and_huge_numbers_in_bodies(world: World, client: Client) -> None:
    for operation in with_bodies():
        for name, schema in (operation.body or {}).get("properties", {}).items():
            for value in wrong_json(schema):
                data = json.dumps({name: value}).encode()
                await client.expect(
                    operation, operation.url(), data=data, field=name, headers=world.bearer()
                )
    assert client.surprises == []
    assert client.sent > 400


async def test_wrong_types_and_huge_numbers_in_paths_and_queries(
    world: World, client: Client
) -> None:
    for operation in operations():
        for parameter in operation.parameters("path"):
            name = parameter["name"]
            for text in wrong_text(parameter["schema"]):
                url = operation.url(**{name: "@"}).replace("%40", text)
                await client.expect(operation, url, headers=world.bearer())
        for parameter in operation.parameters("query"):
            name, schema = parameter["name"], parameter["schema"]
            for text in wrong_text(schema):
                url = f"{operation.url()}?{name}={text}"
                await client.expect(operation, url, headers=world.bearer())
            if schema.get("type") != "array":
                url = f"{operation.url()}?{name}=1&{name}=1"
                await client.expect(operation, url, field=name, headers=world.bearer())
    assert client.surprises == []
    assert client.sent > 300


async def test_bodies_that_are_too_large(world: World, client: Client) -> None:
    huge = b'{"a": "' + b"a" * (1 << 20) + b'"}'
    for operation in with_bodies():
        await client.expect(
            operation, operation.url(), status=413, data=huge, headers=world.bearer()
        )
    assert client.surprises == []


def tokens(world: World) -> dict[str, tuple[str, ...]]:
    """Authorization -> the reasons that it may be refused with."""
    strange = TokenSigner(Ed25519PrivateKey.generate(), world.auth.signer.kid)
    forged = strange.sign(
        user_id="user-7", account_id=7, session_id="session", scopes=["read"], ttl_seconds=600
    )
    head, claims, signature = world.auth.token().split(".")
    invalid = ("TOKEN_INVALID",)
    return {
        "Bearer": invalid,
        "Bearer nonsense": invalid,
        "Bearer a.b.c": invalid,
        "Basic eDp5": invalid,
        f"Bearer {forged}": invalid,
        # The same claims with the algorithm `none`.
        f"Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.": invalid,
        f"Bearer {head}.{claims}x.{signature}": invalid,
        f"Bearer {world.auth.token(ttl_seconds=-60)}": ("TOKEN_EXPIRED",),
    }


async def test_bad_tokens_and_expired_cookies(world: World, client: Client) -> None:
    expired = world.auth.token(ttl_seconds=-60)
    for operation in operations():
        if not operation.is_private:
            continue
        data = None if operation.body is None else b"{}"
        for authorization, reasons in tokens(world).items():
            await client.expect(
                operation,
                operation.url(),
                status=401,
                reasons=reasons,
                data=data,
                headers={"Authorization": authorization},
            )
        for token, reason in ((expired, "TOKEN_EXPIRED"), ("nonsense", "TOKEN_INVALID")):
            cookies = f"tidebook_access={token}; tidebook_csrf=c"
            headers = {"Cookie": cookies, "X-CSRF-Token": "c"}
            await client.expect(
                operation,
                operation.url(),
                status=401,
                reasons=(reason,),
                data=data,
                headers=headers,
            )
        if operation.method != "GET":
            # A good cookie that another site makes the browser send.
            headers = {"Cookie": f"tidebook_access={world.auth.token()}; tidebook_csrf=c"}
            await client.expect(
                operation,
                operation.url(),
                status=403,
                reasons=("CSRF_FAILED",),
                data=data,
                headers=headers,
            )
    assert client.surprises == []
    assert client.sent > 400


async def test_a_token_without_the_scope(world: World, client: Client) -> None:
    """What changes money or orders needs more than reading; the service says so."""
    headers = {"Authorization": f"Bearer {world.auth.token(scopes=['read'])}"}
    order = b'{"market":"BTC_USDC","side":"SIDE_BUY","type":"ORDER_TYPE_LIMIT"}'
    (place,) = [o for o in operations() if str(o) == "POST /v1/orders"]
    await client.expect(
        place, place.url(), status=403, reasons=("SCOPE_MISSING",), data=order, headers=headers
    )
    assert client.surprises == []
    assert world.engine.placed == []
