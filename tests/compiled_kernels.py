"""Mark of tests of the kernels in C."""

from __future__ import annotations

import pytest

from opticam_dask.kernels import compiled

needs_compiled = pytest.mark.skipif(
    compiled.native is None, reason="this checkout has no compiled kernels: python setup.py build_ext --inplace"
)
