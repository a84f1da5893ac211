"""Examples that are started wrongly say so in one line, with what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.exchange import environment

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KEY = {"API_KEY_ID": "tk_1", "API_KEY_SECRET": "secret"}


@pytest.mark.parametrize(
    ("program", "arguments", "settings", "said"),
    [
        ("simple_bot", [], {}, "'API_KEY_ID' is not set"),
        (
            "simple_bot",
            [],
            KEY | {"TIDEBOOK_GRPC": "127.0.0.1:1"},
            "UNAVAILABLE: failed to connect",
        ),
        ("first_trade", ["--http", "nonsense"], {}, "is not like http://127.0.0.1:8080"),
        ("check_proof", ["http://127.0.0.1:1"], {}, "cannot be asked"),
        ("check_proof", ["http://127.0.0.1:1", "--state", __file__], {}, "does not keep a link"),
        ("liquidity_bot", ["--state", __file__], {}, "does not have this bot's API keys"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    program: str, arguments: list[str], settings: dict[str, str], said: str
) -> None:
    clean = {name: text for name, text in environment().items() if not name.startswith("API_KEY")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{program}.py"), *arguments],
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
