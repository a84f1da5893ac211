"""The README says what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_bot_in_the_readme_is_the_bot_in_the_examples() -> None:
    bot = (ROOT / "examples" / "simple_bot.py").read_text().split('"""', 2)[2].strip()
    assert f"```python\n{bot}\n```" in README


@pytest.mark.parametrize(
    "target",
    sorted(
        target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")
    ),
)
def test_links_of_the_readme_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
