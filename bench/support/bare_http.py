"""The HTTP server that the gateway stands on, and nothing else: `python -m bench.support.bare_http
PORT` reads each request and answers a constant of the size of an order.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from bench.support.loops import run_on_fast_loop

_ANSWER = b'{"order":{"note":"' + b"x" * 480 + b'"}}'


async def answer(request: web.BaseRequest) -> web.Response:
    """The constant."""
    await request.read()
    return web.Response(body=_ANSWER, content_type="application/json")


async def serve(port: int) -> None:
    """Until the process is ended."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_on_fast_loop(serve(int(sys.argv[1])))
