"""Drawn files that are made again only when the data they show have changed.

Every such file bears a mark, a hash of what it was made from: a run that has nothing to do draws nothing, and what was
lost, or made from other numbers, is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import opticam_dask
from opticam_dask.display import plotting

if TYPE_CHECKING:
    import xarray as xr

    from opticam_dask.display.plotting import Figure


def mark_of(*shown: Any) -> str:
    """Checksum of the data shown by a file: datasets (without attributes), arrays, numbers, texts, mappings of these.

    Another version of this package may show the same in another way: its mark is another one.
    """
    digest = hashlib.sha256(opticam_dask.__version__.encode())
    for one in shown:
        _add(digest, one)
    return f"opticam_dask-{digest.hexdigest()[:32]}"


def _add(digest: Any, value: Any) -> None:
    if hasattr(value, "variables"):
        _add_dataset(digest, value)
    elif isinstance(value, Mapping):
        for name in value:
            digest.update(f"{name}:".encode())
            _add(digest, value[name])
    elif isinstance(value, tuple | list):
        for one in value:
            _add(digest, one)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        digest.update(repr(value.tolist()).encode())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        digest.update(repr(value).encode())


def _add_dataset(digest: Any, value: xr.Dataset) -> None:
    # by name: the order of variables that were chosen by a set is another one in every process
    variables = sorted(((str(name), one) for name, one in value.variables.items()), key=lambda pair: pair[0])
    _add(digest, {name: (variable.dims, variable.to_numpy()) for name, variable in variables})


def has_mark(file: Path, mark: str) -> bool:
    """Whether a file exists and carries a mark of :func:`mark_of`."""
    try:
        return mark.encode() in file.read_bytes()
    except FileNotFoundError:
        return False


def keep_drawn(file: Path, draw: Callable[..., Figure], *shown: Any, show: bool = False) -> Path:
    """Draw a figure to a PDF, unless the present file shows the same data.

    Parameters
    ----------
    file : Path
        Where it goes.
    draw : callable
        ``draw(*shown)`` gives the figure.
    *shown
        What it shows, see :func:`mark_of`.
    show : bool
        Show it in a notebook as well.

    Returns
    -------
    Path
        The file.
    """
    mark = mark_of(*shown)
    if show or not has_mark(file, mark):
        figure = draw(*shown)
        plotting.save_figure(figure, file, mark=mark)
        if show:
            plotting.show_in_notebook(figure)
    return file
