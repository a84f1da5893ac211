"""The command `tidebook`."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import pydantic
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mesh.config import SERVICES, Settings, describe, environment_of, load_settings, problems_of
from mesh.scheduling import run_in_turns
from ops.errors import OpsError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tidebook: a crypto exchange on one machine. Every setting is an environment variable"
    " too; `tidebook config` lists them.",
)
sessions_app = typer.Typer(no_args_is_help=True, help="Who is signed in.")
app.add_typer(sessions_app, name="sessions")
_BENCH_DIR = Path(__file__).resolve().parent.parent / "bench"

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of everything kept between starts.")
]
HttpPort = Annotated[
    int | None, typer.Option("--http-port", min=1, max=65535, help="Page, HTTP and WebSocket.")
]
GrpcPort = Annotated[
    int | None, typer.Option("--grpc-port", min=1, max=65535, help="The gateway's gRPC door.")
]
PortBase = Annotated[
    int | None,
    typer.Option(
        "--port-base",
        min=1,
        max=65_000,
        help="Move all ports: N to N+7 and N+102 to N+105, to run beside another system.",
    ),
]


@app.command()
def up(
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    port_base: PortBase = None,
    mode: Annotated[str | None, typer.Option(help="demo, dev or production.")] = None,
    feed: Annotated[
        str | None, typer.Option(help="backpack, replay:FILE.csv.gz[?speed=N], synthetic[:SEED].")
    ] = None,
) -> None:
    """Start everything, and stop everything on Ctrl-C."""
    from ops import plan, supervisor

    settings, _ = _settings(data_dir, http_port, grpc_port, port_base, mode=mode, feed=feed)
    _quiet_logs(settings)
    the_plan = plan.make_plan(settings)
    if settings.batch_scheduling:
        # The stores as well, which it starts.
        run_in_turns()
    raise SystemExit(asyncio.run(supervisor.supervise(the_plan, Console(highlight=False))))


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help=f"{', '.join(SERVICES)}, gateway or mailbox.")],
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    port_base: PortBase = None,
) -> None:
    """Run one service in this process; the stores must be reachable by URL."""
    settings, changed = _settings(data_dir, http_port, grpc_port, port_base)
    # A service reads its own settings: what the command line said must be in its environment.
    overrides = {name: getattr(settings, name) for name in changed}
    os.environ.update(environment_of(settings, overrides))
    if service in (*SERVICES, "gateway") and settings.redis_url is None:
        raise OpsError("TIDEBOOK_REDIS_URL is not set: `tidebook up` sets it for its services")
    if service == "mailbox":
        from ops import mailbox

        _serve_mailbox(settings, mailbox.run)
    elif service == "gateway":
        importlib.import_module("gateway.__main__").main()
    elif service in SERVICES:
        importlib.import_module(f"services.{service}.__main__").main()
    else:
        raise typer.BadParameter(f"there is no service {service!r}", param_hint="SERVICE")


@app.command()
def status(data_dir: DataDir = None) -> None:
    """Show whether each part of the running system is healthy, and whether its books are."""
    from ops import status as status_command

    settings, _ = _settings(data_dir)
    # A pipe has no width: let nothing be cut there.
    console = Console(width=None if sys.stdout.isatty() else 250)
    raise SystemExit(asyncio.run(status_command.show(settings.data_dir, console)))


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to its newest version; starts the embedded one if nothing runs."""
    from ops import migrate as migrations
    from ops.temporary import running_or_temporary

    settings, _ = _settings(data_dir)
    _quiet_logs(settings)

    async def run() -> None:
        async with running_or_temporary(settings, from_nothing=True) as ready:
            assert ready.postgres_url is not None
            for service in await migrations.migrate(ready.postgres_url):
                print(f"{service}: newest version")

    asyncio.run(run())


@app.command()
def config(
    data_dir: DataDir = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    port_base: PortBase = None,
) -> None:
    """Print every setting, its value, where that came from, and what it means."""
    settings, changed = _settings(data_dir, http_port, grpc_port, port_base)
    table = Table("setting", "value", "from", "meaning", box=None, padding=(0, 2, 0, 0))
    for row in describe(settings, arguments=changed):
        style = "" if row.source == "default" else "bold"
        table.add_row(row.variable, escape(row.value), row.source, row.description, style=style)
    # A pipe has no width: let nothing be cut there.
    Console(width=None if sys.stdout.isatty() else 250).print(table)


@app.command()
def verify(
    data_dir: DataDir = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, for programs.")
    ] = False,
) -> None:
    """Check log, ledger and engine against each other; exit code 0 when nothing differs."""
    from ops.temporary import running_or_temporary

    settings, _ = _settings(data_dir)
    _quiet_logs(settings)

    async def run() -> int:
        from ops.verify import verify

        async with running_or_temporary(settings) as ready:
            return await verify(ready, json_output=as_json)

    raise SystemExit(asyncio.run(run()))


@app.command()
def rebuild(
    data_dir: DataDir = None,
    check: Annotated[
        bool, typer.Option("--check", help="Replay the archive and say the state, write nothing.")
    ] = False,
) -> None:
    """Restore the engine's log and state from the archive, when the log store has lost them."""
    from ops.temporary import running_or_temporary

    settings, _ = _settings(data_dir)
    _quiet_logs(settings)

    async def run() -> int:
        from ops import state
        from ops.rebuild import rebuild

        if not check and state.DataDirLock(settings.data_dir.resolve()).is_held():
            raise OpsError("the exchange is running: stop it first (or use --check)")
        async with running_or_temporary(settings) as ready:
            return await rebuild(ready, check_only=check)

    raise SystemExit(asyncio.run(run()))


@sessions_app.command("end")
def end_sessions(
    email: Annotated[str | None, typer.Option(help="Of the user with this address.")] = None,
    account: Annotated[
        int | None, typer.Option(min=1, help="Of the user with this trading account.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Of everybody.")] = False,
    api_keys: Annotated[
        bool, typer.Option("--api-keys", help="Revoke the API keys as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
    data_dir: DataDir = None,
) -> None:
    """End all sessions of a user, or of everybody; their access tokens end with them, at once.

    The password stays as it is. Its owner sees in the list of security events what was done.
    """
    from ops import sessions
    from ops.temporary import running_or_temporary

    if sum((email is not None, account is not None, everybody)) != 1:
        raise typer.BadParameter("one of --email, --account and --all must be given")
    if everybody and not yes:
        typer.confirm("End the sessions of everybody?", abort=True)
    settings, _ = _settings(data_dir)
    _quiet_logs(settings)

    async def run() -> int:
        async with running_or_temporary(settings) as ready:
            return await sessions.end(ready, sessions.Whose(email, account), api_keys=api_keys)

    raise SystemExit(asyncio.run(run()))


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which ones; all when not said.")
    ] = None,
) -> None:
    """Run the benchmarks: the programs in bench/, by name."""
    scripts = {path.stem: path for path in sorted(_BENCH_DIR.glob("[a-z]*.py"))}
    # References and clients as well.
    run_in_turns()
    for name in names or scripts:
        if name not in scripts:
            raise typer.BadParameter(f"there is {', '.join(scripts)}", param_hint="NAMES")
        print(f"--- {name}", flush=True)
        # Each in a process of its own: one's leftovers must not slow the next one down.
        code = subprocess.run([sys.executable, str(scripts[name])], check=False).returncode
        if code != 0:
            raise SystemExit(code)


def main() -> None:
    """Entry point; what an operator can mend is one line and exit code 1."""
    try:
        app()
    except OpsError as error:
        _fail(str(error), 1)


def _settings(
    data_dir: Path | None = None,
    http_port: int | None = None,
    grpc_port: int | None = None,
    port_base: int | None = None,
    **others: Any,
) -> tuple[Settings, frozenset[str]]:
    """Settings with the command line's say, and which fields it had a say in."""
    overrides: dict[str, Any] = {}
    if port_base is not None:
        names = ("http_port", "grpc_port", *(f"{service}_port" for service in SERVICES))
        overrides |= {name: port_base + offset for offset, name in enumerate(names)}
        overrides["mailbox_url"] = f"http://127.0.0.1:{port_base + 6}"
        overrides["smtp_url"] = f"smtp://127.0.0.1:{port_base + 7}"
    given = {"data_dir": data_dir, "http_port": http_port, "grpc_port": grpc_port, **others}
    overrides |= {name: value for name, value in given.items() if value is not None}
    try:
        return load_settings(**overrides), frozenset(overrides)
    except pydantic.ValidationError as error:
        _fail("bad settings: " + "; ".join(problems_of(error)), 2)


def _serve_mailbox(settings: Settings, run: Any) -> None:
    from mesh.logging import setup_logging

    setup_logging("mailbox", settings)

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(settings, stop)

    try:
        asyncio.run(serve())
    except OSError as error:
        raise OpsError(f"the mailbox cannot listen: {error}") from None


def _quiet_logs(settings: Settings) -> None:
    """Commands speak to a person themselves: only warnings of libraries and ours come through."""
    from mesh.logging import setup_logging

    level = "warning" if settings.log_level == "info" else settings.log_level
    setup_logging("ops", settings.model_copy(update={"log_level": level}))


def _fail(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[bold red]✗[/] {escape(message)}", soft_wrap=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
