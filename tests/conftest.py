"""Real servers for every test that wants them.

Each xdist worker starts its own PostgreSQL and Valkey when the first test asks for one (both take
about a second), so workers never share state. A test gets a database and an empty Valkey for
itself.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio

from mesh.scheduling import run_in_turns
from ops.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.support.exchange import Exchange, running_exchange


def pytest_configure() -> None:
    """As the exchange does: stores, clients and browsers get it from here."""
    run_in_turns()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a running system on one worker, so that it is started once."""
    for item in items:
        if "exchange" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("exchange"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kills N`: how often the tests that kill services do it; `--examples N`: how many requests
    a fuzzer makes to each operation.
    """
    parser.addoption("--kills", type=int, default=3, help="kills in each test that kills services")
    parser.addoption("--examples", type=int, default=2, help="fuzzed requests to each operation")


@pytest.fixture
def kills(pytestconfig: pytest.Config) -> int:
    """How often to kill."""
    return int(pytestconfig.getoption("kills"))


@pytest.fixture
def examples(pytestconfig: pytest.Config) -> int:
    """How many requests to make up for each operation."""
    return int(pytestconfig.getoption("examples"))


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary directory with a short path, for servers with unix sockets."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def _server_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as path:
        yield Path(path)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _postgres(_server_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(_server_dir, durable=False)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _valkey(_server_dir: Path) -> AsyncIterator[EmbeddedValkey]:
    server = EmbeddedValkey(_server_dir, fsync="never")
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def postgres_url(_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """URL of an empty database that is dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(_postgres.url)
    try:
        await admin.execute(f"create database {name}")
        yield _postgres.url_of(name)
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


@pytest_asyncio.fixture
async def valkey_url(_valkey: EmbeddedValkey) -> str:
    """URL of an empty Valkey that no other test uses meanwhile."""
    client = redis.asyncio.from_url(_valkey.url)
    try:
        await client.flushall()
    finally:
        await client.aclose()
    return _valkey.url


@pytest_asyncio.fixture
async def valkey_server(short_dir: Path) -> AsyncIterator[EmbeddedValkey]:
    """A durable Valkey of the test's own, to be stopped and started again as it likes."""
    server = EmbeddedValkey(short_dir)
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def exchange() -> AsyncIterator[Exchange]:
    """A whole running system that the end-to-end tests share: use accounts of your own."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as path:
        async with running_exchange(Path(path)) as running:
            yield running
