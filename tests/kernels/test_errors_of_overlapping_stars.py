"""Errors of the stars of a stack that are fitted together: those of the whole matrix, whichever way it is solved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

from opticam_dask.kernels.sources import second_look


@pytest.mark.parametrize("dense", [0, 2, 200])
def test_errors__are_the_diagonal_of_the_covariance(monkeypatch, dense):
    monkeypatch.setattr(second_look, "_DENSE", dense)
    rng, n_stars = np.random.default_rng(3), 40
    design = rng.normal(0.0, 1.0, (400, 3 * n_stars)) * np.repeat(rng.uniform(1.0, 30.0, n_stars), 3)
    # stars 0 to 4 overlap in a chain, and 10 with 30; all others stand alone
    normal = design.T @ design
    linked = np.eye(n_stars, dtype=bool)
    for one, other in [(0, 1), (1, 2), (2, 3), (3, 4), (10, 30)]:
        linked[one, other] = linked[other, one] = True
    normal = csc_array(
        np.where(np.kron(linked, np.ones((3, 3), dtype=bool)), normal, 0.0) + 400.0 * np.eye(len(normal))
    )
    expected = np.sqrt(np.diag(np.linalg.inv(normal.toarray()))[::3])
    np.testing.assert_allclose(second_look._errors(normal, splu(normal)), expected, rtol=1e-9)
