"""docs/gateway.md says what is true: each test and setting that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from mesh.config import Settings
from mesh.settings_common import ENV_PREFIX

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "gateway.md").read_text()


def test_every_test_that_is_named_is_there() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in sources for name in re.findall(r"def (test_\w+)\(", text)}
    named = set(re.findall(r"`(test_\w+)`", DOC))
    assert len(named) > 80
    assert named - there == set()


def test_every_setting_that_is_named_is_there() -> None:
    named = set(re.findall(rf"\b{ENV_PREFIX}([A-Z_]+)", DOC))
    assert len(named) > 10
    assert {name.lower() for name in named} - set(Settings.model_fields) == set()


def test_every_rule_of_the_transcoder_is_named() -> None:
    sources = [path.read_text() for path in (ROOT / "tests/gateway").glob("test_transcode*.py")]
    rules = {name for text in sources for name in re.findall(r"def (test_\w+)\(", text)}
    assert {name for name in rules if name not in DOC} == set()
