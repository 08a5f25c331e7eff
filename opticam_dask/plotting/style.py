"""What all figures share: colours, sizes, time axes, files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_FILTER_COLOURS = {"u": "tab:purple", "g": "tab:green", "r": "tab:orange", "i": "tab:olive", "z": "tab:brown"}
_OTHER_COLOURS = ("tab:blue", "tab:red", "tab:cyan", "tab:pink", "tab:gray")

#: No date in a file: the same data give the same bytes.
_METADATA: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".png": {"Software": None}}

_SECONDS_PER_DAY = 86400.0


def colour_of(key: str, position: int = 0) -> str:
    """Colour of a camera key: that of its filter, or the next of a neutral cycle."""
    name = key.split(":")[-1].rstrip("'").lower()
    return _FILTER_COLOURS.get(name, _OTHER_COLOURS[position % len(_OTHER_COLOURS)])


def new_figure(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 5.0) -> Figure:
    """Figure that belongs to no window, with room for its labels."""
    return Figure(figsize=(width * columns, height * rows), layout="constrained")


def elapsed(times: np.ndarray, start: float) -> tuple[np.ndarray, str]:
    """Times in days as seconds, minutes, hours or days since ``start``, whichever reads best, and the unit."""
    seconds = (np.asarray(times, dtype=float) - start) * _SECONDS_PER_DAY
    span = float(np.nanmax(np.abs(seconds), initial=0.0))
    for limit, divisor, unit in ((300.0, 1.0, "s"), (3 * 3600.0, 60.0, "min"), (2 * _SECONDS_PER_DAY, 3600.0, "h")):
        if span <= limit:
            return seconds / divisor, unit
    return seconds / _SECONDS_PER_DAY, "d"


def best_times(mjd_utc: np.ndarray, bmjd_tdb: np.ndarray) -> tuple[np.ndarray, str]:
    """Barycentric times where they are known at all, else UTC, and the name of the scale."""
    if np.isfinite(bmjd_tdb).any():
        return np.asarray(bmjd_tdb, dtype=float), "BMJD (TDB)"
    return np.asarray(mjd_utc, dtype=float), "MJD (UTC)"


def grid(axes: Axes) -> None:
    """Light grid behind the data."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PDF or PNG, by its suffix; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
    path : path

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ValueError
        For another suffix.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in _METADATA:
        raise ValueError(f"figures are written as .pdf or .png, got {file.name}")
    temporary = file.with_name(f".{file.name}.{os.getpid()}{suffix}")
    figure.savefig(temporary, dpi=150, metadata=_METADATA[suffix])
    os.replace(temporary, file)
    return file


def show_in_notebook(figure: Figure) -> None:
    """Show a figure below the cell of a notebook; do nothing anywhere else."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        display(figure)
