"""Fixtures of the tests of kernels."""

from __future__ import annotations

import pytest

from opticam_dask.kernels import compiled


@pytest.fixture
def both(monkeypatch):
    """Results of a call by the compiled form, and by that in NumPy."""

    def run(function, *arguments, **options):
        monkeypatch.setattr(compiled, "native", compiled._available)
        fast = function(*arguments, **options)
        monkeypatch.setattr(compiled, "native", None)
        return fast, function(*arguments, **options)

    return run
