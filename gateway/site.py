"""The web page: files of the build, the index for the page's own routes, compressed if it pays."""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from urllib.parse import unquote

from aiohttp import web

from gateway.exchange import Exchange
from gateway.web_security import PAGE_POLICY

_COMPRESS_FROM_BYTES = 1024
_COMPRESSIBLE = ("text/", "application/javascript", "application/json", "image/svg+xml")
# Vite puts a hash into the name of what it bundles: such a file never changes.
_IMMUTABLE_FOLDER = "assets/"
_YEAR = "public, max-age=31536000, immutable"
_MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tidebook</title></head>
<body><h1>Tidebook runs</h1>
<p>The web page is not built yet. Run <code>make web</code> and load this address again.</p>
<p>The API is described at <a href="/docs">/docs</a>.</p></body></html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    modified_ns: int
    content: bytes
    compressed: bytes | None
    etag: str
    content_type: str


class Site:
    """Serves a folder. Files are kept in memory and read again when they change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._files: dict[Path, _File] = {}

    def handle(self, exchange: Exchange) -> web.Response | None:
        """The file for a path, the index for what looks like a route of the page, else None."""
        if exchange.method not in ("GET", "HEAD"):
            return None
        name = unquote(exchange.path).lstrip("/")
        found = self._load(name) if name else None
        if found is None:
            # A missing picture or script must be a 404, not a page.
            if "." in name.rpartition("/")[2]:
                return None
            name = "index.html"
            found = self._load(name)
        exchange.name = "page"
        exchange.headers["Content-Security-Policy"] = PAGE_POLICY
        if found is None:
            return web.Response(text=_MISSING, content_type="text/html")
        exchange.headers["Cache-Control"] = (
            _YEAR if name.startswith(_IMMUTABLE_FOLDER) else "no-cache"
        )
        return self._respond(exchange, found)

    def _respond(self, exchange: Exchange, file: _File) -> web.Response:
        headers = {"ETag": file.etag, "Vary": "Accept-Encoding", "Content-Type": file.content_type}
        if exchange.request.headers.get("If-None-Match") == file.etag:
            return web.Response(status=304, headers=headers)
        body = file.content
        if file.compressed and "gzip" in exchange.request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = file.compressed
        return web.Response(body=body, headers=headers)

    def _load(self, name: str) -> _File | None:
        if "\0" in name:
            return None
        path = (self._folder / name).resolve()
        # Nothing outside the folder, whatever dots or links a path holds.
        if not path.is_relative_to(self._folder) or not path.is_file():
            return None
        modified_ns = path.stat().st_mtime_ns
        known = self._files.get(path)
        if known is not None and known.modified_ns == modified_ns:
            return known
        content = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        compressible = kind.startswith(_COMPRESSIBLE) and len(content) >= _COMPRESS_FROM_BYTES
        text = kind.startswith("text/") or kind == "application/javascript"
        file = self._files[path] = _File(
            modified_ns=modified_ns,
            content=content,
            compressed=gzip.compress(content, 6) if compressible else None,
            etag=f'"{blake2b(content, digest_size=12).hexdigest()}"',
            content_type=f"{kind}; charset=utf-8" if text else kind,
        )
        return file
