"""Builds the kernels in C where there is a compiler; everything else is in pyproject.toml."""

import sys

from setuptools import Extension, setup

KERNELS = "opticam_dask/kernels/compiled"

SOURCES = (
    "module",
    "arrays",
    "basins",
    "box_statistics",
    "components",
    "cosmic_rays",
    "counted_boxes",
    "counts",
    "cut_outs",
    "field_fit",
    "field_form",
    "group_fit",
    "moments",
    "positions",
    "refinement",
    "segments",
    "sky_course",
    "sky_fit",
    "star_check",
    "star_fit",
    "subtraction",
    "window_sums",
    "windows",
)

HEADERS = (
    "arrays",
    "box_statistics",
    "cosmic_ray_frame",
    "cosmic_ray_window",
    "field_fit",
    "medians",
    "sky_fit",
    "star_fit",
    "subtraction_strip",
    "sums",
)

# the same bits from every processor: no fused multiply-add, and nothing that changes the order of a sum
UNIX_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "opticam_dask.kernels.compiled.native",
            sources=[f"{KERNELS}/{name}.c" for name in SOURCES],
            depends=[f"{KERNELS}/{name}.h" for name in HEADERS],
            extra_compile_args=[] if sys.platform == "win32" else UNIX_FLAGS,
            py_limited_api=True,
            optional=True,  # without a compiler the package installs, and its kernels are those in NumPy
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
