"""Each photometer in each kind of night is right, or says that it is not: the nights of the table in the docs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
regimes = importlib.import_module("regimes")

N_FRAMES = 12


@pytest.mark.parametrize("regime", regimes.REGIMES, ids=lambda regime: regime.name)
def test_regimes__right_or_told(regime):
    cells = regimes.measure(regime, N_FRAMES)
    wrong = {label: (cell.verdict(), cell) for label, cell in cells.items() if cell.verdict().startswith("not fit")}
    assert not wrong
