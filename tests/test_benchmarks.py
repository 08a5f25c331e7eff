"""The benchmarks run, small, so that they cannot rot; what they claim is checked where it does not depend on time."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _main(name):
    return runpy.run_path(str(BENCHMARKS / f"{name}.py"))["main"]


@pytest.mark.timeout(900)
def test_robustness__workers_killed_through_the_run():
    found = _main("robustness")(["workers", "--frames", "1000", "--every", "5"])
    assert found["kills"] >= 3


@pytest.mark.timeout(900)
def test_robustness__everything_killed_again_and_again():
    found = _main("robustness")(["everything", "--frames", "1000", "--kills", "4"])
    assert found["kills"] == 4
    assert found["redone"] < 0.05
