"""Plots of what is known of each frame, against time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.flags import UNUSABLE
from opticam_dask.plotting.style import best_times, colour_of, elapsed, grid, new_figure

_SECONDS_PER_DAY = 86400.0
_HISTOGRAM_BINS = 60


def plot_header_times(times: Mapping[str, np.ndarray]) -> Figure:
    """Time stamps of the headers: cumulative frames, steps between frames, and the distribution of the steps.

    Parameters
    ----------
    times : dict of ndarray
        MJD (UTC) of the frames of each camera key.

    Returns
    -------
    Figure
    """
    figure = new_figure(rows=3, width=8.0, height=3.0)
    cumulative, steps, histogram = figure.subplots(3, 1)
    start = min((float(np.min(values)) for values in times.values() if len(values)), default=0.0)
    end = max((float(np.max(values)) for values in times.values() if len(values)), default=0.0)
    _, unit = elapsed(np.array([end]), start)
    for position, (key, values) in enumerate(times.items()):
        ordered, colour = np.sort(values), colour_of(key, position)
        since = _in_unit(ordered, start, unit)
        cumulative.step(since, np.arange(1, len(since) + 1), where="post", color=colour, label=f"{key} ({len(since)})")
        gaps = np.diff(ordered) * _SECONDS_PER_DAY
        if len(gaps):
            steps.plot(since[1:], gaps, ".", ms=3, color=colour)
    _step_histogram(histogram, times)
    cumulative.set(xlabel=f"Time since MJD {start:.5f} (UTC) [{unit}]", ylabel="Frames so far")
    cumulative.legend(title="Camera key")
    steps.set(xlabel=f"Time since MJD {start:.5f} (UTC) [{unit}]", ylabel="Step to the frame before [s]")
    _scale_steps(steps, times)
    histogram.set(xlabel="Step between frames [s]", ylabel="Number of steps")
    for axes in (cumulative, steps, histogram):
        grid(axes)
    return figure


def _scale_steps(axes: Axes, times: Mapping[str, np.ndarray]) -> None:
    """Logarithmic axis when steps differ much, else a linear one that does not magnify rounding errors."""
    positive = _positive_steps(times)
    if not len(positive):
        return
    low, high = float(positive.min()), float(positive.max())
    if high > 20 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0.0, 1.2 * high)


def _positive_steps(times: Mapping[str, np.ndarray]) -> np.ndarray:
    steps = [np.diff(np.sort(values)) * _SECONDS_PER_DAY for values in times.values()]
    together = np.concatenate(steps) if steps else np.empty(0)
    return together[together > 0]


def _in_unit(values: np.ndarray, start: float, unit: str) -> np.ndarray:
    return (values - start) * _SECONDS_PER_DAY / {"s": 1.0, "min": 60.0, "h": 3600.0, "d": _SECONDS_PER_DAY}[unit]


def _step_histogram(axes: Axes, times: Mapping[str, np.ndarray]) -> None:
    """Histogram of the steps in a fixed number of bins, logarithmic when steps differ much."""
    gaps = {key: np.diff(np.sort(values)) * _SECONDS_PER_DAY for key, values in times.items()}
    positive = _positive_steps(times)
    if not len(positive):
        axes.text(0.5, 0.5, "a single frame has no step", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = float(positive.min()), float(positive.max())
    if high > 20 * low:
        edges = np.geomspace(0.9 * low, 1.1 * high, _HISTOGRAM_BINS)
        axes.set_xscale("log")
    else:
        margin = max(0.05 * (high - low), 0.05 * high)
        edges = np.linspace(low - margin, high + margin, _HISTOGRAM_BINS)
    for position, (key, values) in enumerate(gaps.items()):
        axes.hist(
            values[values > 0], bins=edges.tolist(), histtype="step", linewidth=1.5, color=colour_of(key, position)
        )
    axes.set_yscale("log")


def plot_background(frames: Mapping[str, xr.Dataset]) -> Figure:
    """Sky background and its scatter against time.

    Parameters
    ----------
    frames : dict of Dataset
        Records of the frames of each camera key: mjd_utc, bmjd_tdb, background, background_rms.
    """
    rows = (("background", "Sky background\n[e$^-$ / pixel]"), ("background_rms", "Its scatter (RMS)\n[e$^-$ / pixel]"))
    return _against_time(frames, rows)


def plot_alignment(frames: Mapping[str, xr.Dataset]) -> Figure:
    """Shift, rotation and residuals of the transforms, and the seeing, against time.

    Parameters
    ----------
    frames : dict of Dataset
        Records of the frames of each camera key.
    """
    derived = {key: _with_motion(dataset) for key, dataset in frames.items()}
    rows = (
        ("shift_x", "Shift in x\n[pixel]"),
        ("shift_y", "Shift in y\n[pixel]"),
        ("rotation", "Rotation\n[degree]"),
        ("transform_rms", "Residual (RMS)\n[pixel]"),
        ("fwhm", "FWHM\n[pixel]"),
    )
    return _against_time(derived, rows)


def _with_motion(dataset: xr.Dataset) -> xr.Dataset:
    matrix = dataset["transform"].to_numpy()
    usable = (dataset["flags"].to_numpy() & np.uint32(UNUSABLE)) == 0
    motion = {
        "shift_x": matrix[:, 0, 2],
        "shift_y": matrix[:, 1, 2],
        "rotation": np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])),
    }
    return dataset.assign({name: ("frame", np.where(usable, values, np.nan)) for name, values in motion.items()})


def _against_time(frames: Mapping[str, xr.Dataset], rows: tuple[tuple[str, str], ...]) -> Figure:
    """One row of axes a quantity, all cameras in each."""
    figure = new_figure(rows=len(rows), width=9.0, height=2.0)
    panels = np.atleast_1d(figure.subplots(len(rows), 1, sharex=True))
    all_bmjd = np.concatenate([dataset["bmjd_tdb"].to_numpy() for dataset in frames.values()])
    all_mjd = np.concatenate([dataset["mjd_utc"].to_numpy() for dataset in frames.values()])
    times, scale = best_times(all_mjd, all_bmjd)
    start = float(np.nanmin(times))
    _, unit = elapsed(times, start)
    for position, (key, dataset) in enumerate(frames.items()):
        own, _ = best_times(dataset["mjd_utc"].to_numpy(), dataset["bmjd_tdb"].to_numpy())
        since = _in_unit(own, start, unit)
        for axes, (name, _) in zip(panels, rows, strict=True):
            axes.plot(since, dataset[name].to_numpy(), ".", ms=4, color=colour_of(key, position), label=key)
    for axes, (_, label) in zip(panels, rows, strict=True):
        axes.set_ylabel(label)
        axes.ticklabel_format(axis="y", useOffset=False)
        grid(axes)
    panels[0].legend(title="Camera key", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel(f"Time since {scale} {start:.5f} [{unit}]")
    figure.align_ylabels()
    return figure
