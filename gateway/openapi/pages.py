"""`/openapi.json`, and `/docs`, which shows it. Both are made once, at start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import orjson
from aiohttp import web

from gateway.exchange import Exchange
from gateway.web_security import PAGE_POLICY

_FILES = {
    "/docs": ("index.html", "text/html"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
    "/docs/style.css": ("style.css", "text/css"),
}
Page = Callable[[Exchange], Awaitable[web.StreamResponse]]


def openapi_pages(document: dict[str, Any]) -> dict[str, Page]:
    """Path -> page."""
    folder = resources.files("gateway.openapi").joinpath("static")
    pages = {
        path: _page(folder.joinpath(name).read_bytes(), kind)
        for path, (name, kind) in _FILES.items()
    }
    pages["/openapi.json"] = _page(orjson.dumps(document), "application/json")
    return pages


def _page(body: bytes, kind: str) -> Page:
    async def serve(exchange: Exchange) -> web.StreamResponse:
        exchange.headers["Content-Security-Policy"] = PAGE_POLICY
        exchange.headers["Cache-Control"] = "no-cache"
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return serve
