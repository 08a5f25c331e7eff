"""Builds the kernels in C where there is a compiler; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup

KERNELS = "opticam_dask/kernels/compiled"

SOURCES = (
    "module",
    "arrays",
    "box_statistics",
    "components",
    "cosmic_rays",
    "field_fit",
    "moments",
    "sky_fit",
    "star_fit",
    "windows",
)

# the same bits from every processor: no fused multiply-add, and nothing that changes the order of a sum
UNIX_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "opticam_dask.kernels.compiled.native",
            sources=[f"{KERNELS}/{name}.c" for name in SOURCES],
            depends=[f"{KERNELS}/arrays.h", f"{KERNELS}/sums.h"],
            extra_compile_args=[] if sys.platform == "win32" else UNIX_FLAGS,
            py_limited_api=True,
            optional=True,  # without a compiler the package installs, and its kernels are those in NumPy
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
