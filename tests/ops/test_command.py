"""The command line: one clear line and an exit code for everything that can be wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ops import preflight
from ops.errors import OpsError
from tests.support import free_ports
from tests.support.exchange import PORT_OFFSETS, environment


def tidebook(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `tidebook` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_port_in_use_is_one_clear_line(short_dir: Path) -> None:
    base = free_ports(PORT_OFFSETS)
    with socket.create_server(("127.0.0.1", base)):
        done = tidebook("up", "--data-dir", str(short_dir), "--port-base", str(base))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert f"port {base} on 127.0.0.1 (the page and HTTP) is in use" in done.stdout
    assert "TIDEBOOK_HTTP_PORT" in done.stdout


def test_production_that_nobody_could_reach_is_one_clear_line(short_dir: Path) -> None:
    settings = {"TIDEBOOK_MODE": "production", "TIDEBOOK_HTTP_HOST": "0.0.0.0"}
    done = tidebook("up", "--data-dir", str(short_dir), **settings)
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "set TIDEBOOK_TRUSTED_PROXIES, or TIDEBOOK_HTTPS_ONLY=false" in done.stdout


def test_a_data_directory_that_is_a_file_is_one_clear_line(short_dir: Path) -> None:
    file = short_dir / "file"
    file.write_text("not a folder")
    done = tidebook("up", "--data-dir", str(file))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert f"the data directory {file} cannot be used: file exists" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_rights_is_one_clear_line(short_dir: Path) -> None:
    short_dir.chmod(0o500)
    done = tidebook("up", "--data-dir", str(short_dir / "data"))
    assert done.returncode == 1
    assert "permission denied" in done.stdout


def test_a_read_only_place_is_one_clear_line() -> None:
    done = tidebook("up", "--data-dir", "/proc/tidebook")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "the data directory /proc/tidebook cannot be used" in done.stdout


def test_too_little_room_on_the_disk_is_refused(short_dir: Path) -> None:
    with pytest.raises(OpsError, match=r"is full: [0-9]+ MB are free and"):
        preflight.check_disk(short_dir, min_free_bytes=1 << 60)


def test_a_store_elsewhere_that_cannot_be_reached_is_one_clear_line(short_dir: Path) -> None:
    base = free_ports(PORT_OFFSETS)
    nowhere = f"redis://127.0.0.1:{base}/0"
    arguments = ("up", "--data-dir", str(short_dir), "--port-base", str(base))
    done = tidebook(*arguments, TIDEBOOK_REDIS_URL=nowhere)
    assert done.returncode == 1
    assert "TIDEBOOK_REDIS_URL cannot be reached" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("verify",), {}, "no exchange has ever run in"),
        (("rebuild",), {}, "no exchange has ever run in"),
        (("sessions", "end", "--all", "--yes"), {}, "no exchange has ever run in"),
        (("serve", "engine"), {}, "TIDEBOOK_REDIS_URL is not set"),
        (("up", "--feed", "replay:/no/such.gz"), {}, "cannot read the recording /no/such.gz"),
        (
            ("migrate",),
            {"TIDEBOOK_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/none"},
            "PostgreSQL cannot be reached",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_clear_line(
    short_dir: Path, arguments: tuple[str, ...], settings: dict[str, str], said: str
) -> None:
    nowhere = short_dir / "nowhere"
    done = tidebook(*arguments, "--data-dir", str(nowhere), **settings)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    # A mistyped directory does not become a new exchange.
    assert not (nowhere / "postgres").exists()


def test_status_without_a_system_says_so(short_dir: Path) -> None:
    done = tidebook("status", "--data-dir", str(short_dir))
    assert done.returncode == 3
    assert "not running" in done.stdout


def test_config_shows_every_setting_with_its_source_and_hides_passwords(short_dir: Path) -> None:
    done = tidebook(
        *("config", "--data-dir", str(short_dir)),
        TIDEBOOK_POSTGRES_URL="postgresql://tidebook:hunter2@db/tidebook",
        TIDEBOOK_SMTP_URL="smtps://mail:tr0ub4dor@mail.example.com:465",
    )
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if "TIDEBOOK_" in line}
    assert "hunter2" not in done.stdout and "tr0ub4dor" not in done.stdout
    assert "environment" in rows["TIDEBOOK_POSTGRES_URL"]
    assert "db/tidebook" in rows["TIDEBOOK_POSTGRES_URL"]
    assert "argument" in rows["TIDEBOOK_DATA_DIR"]
    assert "default" in rows["TIDEBOOK_DRAIN_SECONDS"]


def test_a_bad_setting_is_named(short_dir: Path) -> None:
    done = tidebook("config", TIDEBOOK_HTTP_PORT="eighty")
    assert done.returncode == 2
    assert "TIDEBOOK_HTTP_PORT: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_service_is_refused() -> None:
    done = tidebook("serve", "nothing")
    assert done.returncode == 2
    assert "there is no service" in done.stderr
