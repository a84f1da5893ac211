"""Recorded crashes through seeded margin accounts; in full by `python -m bench.positions`."""

from __future__ import annotations

import pytest

from bench.support.crash import RECORDINGS, run_crash
from tests.support.recordings import recording


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recorded_crash_leaves_nobody_below_zero_and_no_money_missing(name: str) -> None:
    report = run_crash(recording(name), accounts=150, every=12, most=360)
    assert report["opened"] > 100
    assert report["liquidated"] > 0
    assert (report["below_zero"], report["missing"]) == (0, "0")
