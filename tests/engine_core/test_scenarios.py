"""Every file in scenarios/ is a story that must come out as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine_core.scenario import Scenario

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    Scenario().run(path)


def test_a_scenario_that_is_wrong_names_its_line(tmp_path: Path) -> None:
    story = tmp_path / "wrong.txt"
    story.write_text("alice buy 1 @ 1000 -> open\nalice buy 1 @ 1000 -> filled\n")
    with pytest.raises(AssertionError, match=r"wrong\.txt:2"):
        Scenario().run(story)
