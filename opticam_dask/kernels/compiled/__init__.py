"""Choice between the kernels in C and those in NumPy in this process.

The form in NumPy is the reference, and what runs where the package was installed without a compiler. Both give the
same numbers within the rounding of the last digits. ``OPTICAM_DASK_KERNELS=numpy`` chooses the form in NumPy where
there is a choice.
"""

from __future__ import annotations

import os
import platform
import warnings
from types import ModuleType

import numpy as np
import numpy.typing as npt

#: Environment variable that chooses the form.
VARIABLE = "OPTICAM_DASK_KERNELS"

#: Name of the form in C.
COMPILED = "compiled"
#: Name of the form in NumPy.
NUMPY = "numpy"

#: Set of functions that the kernels call, as ``module.c`` numbers it.
INTERFACE = 14


def _native() -> ModuleType | None:
    """The compiled module; None where there is none, or one of other sources, or the other form is asked for.

    Raises
    ------
    ImportError
        When the variable asks for a form that there is not.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", COMPILED, NUMPY):
        raise ImportError(f"{VARIABLE} must be {COMPILED} or {NUMPY}, it is {wanted}")
    if wanted == NUMPY:
        return None
    try:
        from opticam_dask.kernels.compiled import native
    except ImportError:
        if wanted == COMPILED:
            raise
        return None
    if getattr(native, "INTERFACE", 0) == INTERFACE:
        return native
    message = f"{native.__file__} was built from other sources: install opticam_dask again (pip install -e .)"
    if wanted == COMPILED:
        raise ImportError(message)
    warnings.warn(f"{message}; until then kernels run in NumPy", RuntimeWarning, stacklevel=2)
    return None


#: What is there, and what is used: None is the form in NumPy, which every kernel then takes.
_available = native = _native()


def ready(values: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> np.ndarray:
    """Array as the compiled module reads it, C-contiguous and aligned: a copy only where it is not so already."""
    array = np.ascontiguousarray(values, dtype=dtype)
    return array if array.flags.aligned else array.copy()


def form() -> str:
    """Form of the kernels of this process: ``compiled`` or ``numpy``."""
    return NUMPY if native is None else COMPILED


def use(wanted: str) -> None:
    """Use a form from now on in this process.

    All tasks of a reduction use the form of the process that started it, so that its numbers do not depend on which
    worker a task came to.

    Parameters
    ----------
    wanted : str
        ``compiled`` or ``numpy``.

    Raises
    ------
    RuntimeError
        When this process has no compiled kernels.
    """
    global native  # one form for all of a process
    if wanted == COMPILED and _available is None:
        raise RuntimeError(
            f"the reduction was started with compiled kernels and {platform.node()} has none: install opticam_dask "
            f"there with a compiler, or start with the environment variable {VARIABLE}={NUMPY}"
        )
    native = _available if wanted == COMPILED else None
