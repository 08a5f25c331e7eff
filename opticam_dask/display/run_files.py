"""Files for people that every run leaves: each is a task, so that the process that drives a run draws nothing.

Nothing that draws is imported before a task does it, and a figure is drawn only where what it shows has changed, see
:mod:`~opticam_dask.display.drawn`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opticam_dask.cluster.executors import Executor, Work
from opticam_dask.locations import is_remote, location
from opticam_dask.pipeline.reduction import Progress, counted_results
from opticam_dask.store.store import Store

_PRODUCTS, _DIAGNOSTICS = "opticam_dask.display.products", "opticam_dask.display.diagnostics"


class RunFile(NamedTuple):
    """A function that writes files of a run, by its module and name, with its options beside the output directory."""

    module: str
    function: str
    options: Mapping[str, Any] = {}

    @property
    def is_figure(self) -> bool:
        """Whether it draws."""
        return self.function.startswith("plot_")


#: Files about frames and sources, which need no photometry.
OF_FRAMES = (
    RunFile(_PRODUCTS, "write_catalogs"),
    RunFile(_PRODUCTS, "plot_catalogs"),
    RunFile(_PRODUCTS, "plot_frames", {"names": ("background",)}),
    RunFile(_PRODUCTS, "plot_frames", {"names": ("alignment",)}),
)


def of_photometry(out_directory: str | Path, labels: Iterable[str]) -> list[RunFile]:
    """Files about photometry: of those labels that some camera has."""
    measured = Store.at(out_directory).measured_keys
    options = [{"label": label, "if_changed": True} for label in labels if measured(label)]
    return [RunFile(_DIAGNOSTICS, "plot_rms_vs_flux", one) for one in options]


def of_headers(times: Mapping[str, Any]) -> RunFile:
    """File about the time stamps of headers, which are MJD (UTC) by camera key."""
    return RunFile(_PRODUCTS, "plot_header_times", {"times": dict(times)})


def write_run_files(
    out_directory: str | Path, files: Sequence[RunFile], executor: Executor, progress: Progress, *, show: bool = False
) -> list[Path]:
    """Write files for people.

    Parameters
    ----------
    out_directory : path or URL
        Output directory of a reduction.
    files : sequence of RunFile
        Which; one is a task.
    executor : Executor
        Where they are written.
    progress : Progress
        Where progress is reported.
    show : bool
        Show the figures in a notebook, which only its own process can.

    Returns
    -------
    list of Path
        The files, in order.
    """
    place = location(out_directory)
    place = place if is_remote(place) else place.absolute()
    work = [
        Work(functools.partial(_write, place, one, show), [number], "files", has_time_limit=False)
        for number, one in enumerate(files)
    ]
    found = counted_results(executor, work, progress, "Drawing figures", len(files), "files")
    return [file for number in sorted(found) for file in found[number]]


def _write(out_directory: Path, one: RunFile, show: bool, number: int) -> tuple[int, list[Path]]:
    """Task that calls one such function."""
    options = {**one.options, "show": show} if one.is_figure else one.options
    written = getattr(importlib.import_module(one.module), one.function)(out_directory, **options)
    return number, [] if written is None else list(written) if isinstance(written, list) else [written]
