"""The compiled core is the same core: made of the same source, to the same events and bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.engine.compiled import VARIABLE, build_name

ROOT = Path(__file__).resolve().parents[2]
BUILDS = ROOT / ".build" / "core"


def run(*command: str, builds: Path | None = None) -> str:
    """What a Python command prints, with the compiled core or without."""
    others = {name: text for name, text in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=others if builds is None else {**others, VARIABLE: str(builds)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_compiled_core_does_what_its_source_says() -> None:
    run("tools/build_core.py", str(BUILDS))
    assert (BUILDS / build_name()).is_dir(), "the core does not compile"
    command = ("-m", "tests.engine_core.digest", "7", "6000")
    compiled, interpreted = run(*command, builds=BUILDS).split(), run(*command).split()
    assert (compiled[0], interpreted[0]) == ("True", "False")
    assert compiled[1] == interpreted[1]
    scenarios = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engine_core")
    assert "passed" in run(
        *scenarios, "-k", "test_scenarios or test_memory or test_wire_answers", builds=BUILDS
    )


def test_a_build_of_other_sources_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef01234567" / "services" / "engine" / "domain").mkdir(parents=True)
    command = ("-c", "from services.engine import compiled; print(compiled.is_compiled())")
    assert run(*command, builds=tmp_path).strip() == "False"


def test_a_changed_source_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.engine import compiled

    for package in ("kernel", compiled.DOMAIN):
        shutil.copytree(ROOT / package, tmp_path / package)
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    assert compiled.build_name() == build_name()
    before = compiled.build_name()
    with (tmp_path / compiled.DOMAIN / "book.py").open("a") as source:
        source.write("\n")
    assert compiled.build_name() != before
