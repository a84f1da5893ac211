"""Database migrations: each service's own, in its own schema, with its own version table.

A service with tables has `services/<service>/migrations/` (an Alembic `env.py` and `versions/`).
Its `env.py` gets what it needs in the configuration's attributes and opens nothing itself:

    connection = context.config.attributes["connection"]
    schema = context.config.attributes["schema"]
    context.configure(connection=connection, version_table_schema=schema)
    with context.begin_transaction():
        context.run_migrations()

The schema exists by then and is first on the connection's search path.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from mesh.postgres import sqlalchemy_url
from ops.errors import OpsError

SERVICES = ("auth", "settlement", "marketdata")
_SERVICES_DIR = Path(__file__).resolve().parent.parent / "services"
# Any number will do, as long as every Tidebook takes the same: two of them that start on one
# database at once must migrate one after the other.
_LOCK_KEY = 0x7469_6465

log = structlog.get_logger("tidebook.ops.migrate")


def migrations_dir(service: str) -> Path:
    """Where the migrations of `service` are, if it has any."""
    return _SERVICES_DIR / service / "migrations"


async def migrate(postgres_url: str, services: tuple[str, ...] = SERVICES) -> list[str]:
    """Bring the schema of every service to its newest version; each service is one transaction.

    Returns the services that have migrations. Raises `OpsError`; a service whose migration failed
    is left as it was.
    """
    migrated = [name for name in services if (migrations_dir(name) / "env.py").exists()]
    engine = create_async_engine(sqlalchemy_url(postgres_url), poolclass=NullPool)
    try:
        for service in migrated:
            try:
                await _migrate_one(engine, service)
            except OSError as error:
                raise OpsError(f"PostgreSQL cannot be reached: {error}") from error
            except (SQLAlchemyError, CommandError) as error:
                log.error("migration_failed", service=service, exc_info=error)
                first_line = str(error).partition("\n")[0]
                raise OpsError(f"the migration of {service} failed: {first_line}") from error
            log.info("migrated", service=service)
    finally:
        await engine.dispose()
    return migrated


async def _migrate_one(engine: AsyncEngine, service: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            sqlalchemy.text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}
        )
        await connection.execute(sqlalchemy.text(f"create schema if not exists {service}"))
        await connection.execute(sqlalchemy.text(f"set local search_path to {service}"))
        await connection.run_sync(_upgrade, service)


def _upgrade(connection: sqlalchemy.Connection, service: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir(service)).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["schema"] = service
    command.upgrade(config, "head")
