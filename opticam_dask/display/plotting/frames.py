"""Plots of the frames against time: sky, seeing, shifts, quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.display.plotting.style import (
    MANY_POINTS,
    colour_of,
    count_outside,
    grid,
    key_legend,
    new_figure,
    require_panels,
    robust_limits,
)
from opticam_dask.display.plotting.times import best_axis, time_panels, utc_axis
from opticam_dask.flags import UNUSABLE
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.lightcurves.reading.columns import CurveArrays, NamedArray

if TYPE_CHECKING:
    import xarray as xr

#: Bins of a histogram, for the thousands of frames of a night.
_HISTOGRAM_BINS = 60
#: Steps that differ by more than this factor get a logarithmic axis.
_WIDE_RANGE = 20.0


def plot_header_times(times: Mapping[str, np.ndarray]) -> Figure:
    """Time stamps of the headers: cumulative frames, steps between frames, and the distribution of the steps.

    Parameters
    ----------
    times : dict of ndarray
        MJD (UTC) of the frames of each camera key, in any order; NaN values do not count.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(times)
    ordered = {key: np.sort(values[np.isfinite(values)]) for key, values in times.items()}
    gaps = {key: np.diff(values) * SECONDS_PER_DAY for key, values in ordered.items()}
    axis = utc_axis(ordered)
    figure = new_figure(rows=3, width=9.0, height=3.0)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[2, 1]).ravel()
    panels = time_panels(upper, 2, axis)
    for cumulative, steps in panels.T:
        for position, (key, since) in enumerate(axis.since.items()):
            colour, label = colour_of(key, position), f"{key} ({len(since)})"
            cumulative.step(since, np.arange(1, len(since) + 1), where="post", color=colour, label=label)
            # a single frame is a step of no length
            cumulative.plot(since[-1:], [len(since)] * len(since[-1:]), "o", ms=4, color=colour)
            many = len(since) > MANY_POINTS
            steps.plot(since[1:], gaps[key], ".", ms=3, color=colour, rasterized=many)
        grid(cumulative)
        grid(steps)
    panels[0, 0].set_ylabel("Frames so far")
    panels[1, 0].set_ylabel("Step to the\nframe before [s]")
    most = max(1, *(len(since) for since in axis.since.values()))
    panels[0, 0].set_ylim(-0.04 * most, 1.1 * most)
    # the upper left corner of a rising curve is free
    panels[0, 0].legend(title="Camera key", loc="upper left")
    _scale_steps(panels[1, 0], gaps)
    histogram = lower.subplots()
    _step_histogram(histogram, gaps)
    histogram.set(xlabel="Step between frames [s]", ylabel="Number of steps")
    grid(histogram)
    return figure


def _positive(gaps: Mapping[str, np.ndarray]) -> np.ndarray:
    together = np.concatenate(list(gaps.values()))
    return together[together > 0]


def _scale_steps(axes: Axes, gaps: Mapping[str, np.ndarray]) -> None:
    """Logarithmic axis when steps differ much, else a linear one that does not magnify rounding errors."""
    positive = _positive(gaps)
    if not len(positive):
        axes.set_yticks([])
        return
    low, high = float(positive.min()), float(positive.max())
    if high > _WIDE_RANGE * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0.0, 1.2 * high)


def _step_histogram(axes: Axes, gaps: Mapping[str, np.ndarray]) -> None:
    """Histogram in a fixed number of bins, logarithmic when steps differ much: a day-long gap is one bin."""
    positive = _positive(gaps)
    if not len(positive):
        axes.text(0.5, 0.5, "single frames have no steps", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    low, high = float(positive.min()), float(positive.max())
    if high > _WIDE_RANGE * low:
        edges = np.geomspace(0.9 * low, 1.1 * high, _HISTOGRAM_BINS)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        margin = 0.05 * high
        edges = np.linspace(low - margin, high + margin, _HISTOGRAM_BINS)
    for position, (key, steps) in enumerate(gaps.items()):
        colour = colour_of(key, position)
        axes.hist(steps[steps > 0], bins=edges.tolist(), histtype="step", linewidth=1.5, color=colour)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0.5)
    n_equal = sum(int(np.count_nonzero(steps == 0)) for steps in gaps.values())
    if n_equal:
        text = f"{n_equal} steps of zero are not shown: equal time stamps"
        axes.text(0.99, 0.95, text, ha="right", va="top", transform=axes.transAxes, color="tab:red")


def plot_background(frames: Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
    """Sky background and its scatter against time.

    Parameters
    ----------
    frames : dict of Dataset
        Records of the frames of each camera key: mjd_utc, bmjd_tdb, background, background_rms.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    rows = {"background": "Sky background\n[e$^-$ / pixel]", "background_rms": "Scatter of the sky\n[e$^-$ / pixel]"}
    return _against_time(frames, rows, height=2.8)


def plot_alignment(frames: Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
    """Shift, rotation and residuals of the transforms, and the seeing, against time.

    Parameters
    ----------
    frames : dict of Dataset
        Records of the frames of each camera key: mjd_utc, bmjd_tdb, transform (frame, 3, 3), transform_rms, fwhm,
        flags. The shift is that of pixel (0, 0) of the reference. Frames that were set aside have no transform.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    derived = {key: _with_motion(dataset) for key, dataset in frames.items()}
    rows = {
        "shift_x": "Shift in x\n[pixel]",
        "shift_y": "Shift in y\n[pixel]",
        "rotation": "Rotation\n[degree]",
        "transform_rms": "Residual (RMS)\n[pixel]",
        "fwhm": "FWHM\n[pixel]",
    }
    return _against_time(derived, rows, height=1.9)


def _with_motion(dataset: xr.Dataset | CurveArrays) -> dict[str, Any]:
    """Curves that are drawn from the transforms, by name."""
    matrix = dataset["transform"].to_numpy()
    usable = (dataset["flags"].to_numpy() & np.uint32(UNUSABLE)) == 0
    angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    # from -90 to 270 degrees: neither a field at rest nor one turned by 180 degrees sits at the seam
    motion = {"shift_x": matrix[:, 0, 2], "shift_y": matrix[:, 1, 2], "rotation": np.mod(angle + 90.0, 360.0) - 90.0}
    known = {name: dataset[name] for name in ("mjd_utc", "bmjd_tdb", "transform_rms", "fwhm")}
    return known | {name: NamedArray.of(["frame"], np.where(usable, one, np.nan)) for name, one in motion.items()}


def _against_time(frames: Mapping[str, Any], rows: Mapping[str, str], height: float) -> Figure:
    """One row of axes a quantity, all cameras in each."""
    require_panels(frames)
    axis = best_axis(frames)
    figure = new_figure(rows=len(rows), width=9.0, height=height)
    panels = time_panels(figure, len(rows), axis)
    for (name, label), row in zip(rows.items(), panels, strict=True):
        values = {key: dataset[name].to_numpy() for key, dataset in frames.items()}
        for axes in row:
            low, high = axes.get_xlim()
            for position, (key, since) in enumerate(axis.since.items()):
                shown = (since >= low) & (since <= high)
                many = np.count_nonzero(shown) > MANY_POINTS
                colour = colour_of(key, position)
                axes.plot(since[shown], values[key][shown], ".", ms=4, color=colour, label=key, rasterized=many)
            grid(axes)
        row[0].set_ylabel(label)
        row[0].ticklabel_format(axis="y", useOffset=False)
        _limit(row, np.concatenate(list(values.values())))
    key_legend(panels[0, -1])
    figure.align_ylabels(panels[:, 0])
    return figure


def _limit(row: np.ndarray, values: np.ndarray) -> None:
    """Limits of a row of axes that a few outliers do not spoil."""
    limits = robust_limits(values)
    if limits is not None:
        row[0].set_ylim(*limits)
        count_outside(row[-1], int(np.count_nonzero((values < limits[0]) | (values > limits[1]))))


_QUALITY = {
    "fwhm": "FWHM\n[pixel]",
    "ellipticity": "Ellipticity",
    "background": "Sky\n[e$^-$ / pixel]",
    "background_rms": "Sky scatter\n[e$^-$ / pixel]",
    "transparency": "Transparency",
    "airmass": "Airmass",
    "n_sources": "Sources",
}


def plot_quality(frames: Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
    """Seeing, shape, sky, transparency, airmass and number of sources against time; unusable frames are marked.

    Parameters
    ----------
    frames : dict of Dataset
        Records of the frames of each camera key: mjd_utc, bmjd_tdb, flags, and of fwhm, ellipticity, background,
        background_rms, transparency, airmass and n_sources those that are known.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key, or none of the quantities is known in any frame.
    """
    require_panels(frames)
    rows = {name: label for name, label in _QUALITY.items() if any(_is_known(one, name) for one in frames.values())}
    if not rows:
        raise ValueError(f"expected at least one of {', '.join(_QUALITY)} to be known in a frame, found none")
    whole = {
        key: {name: one[name] for name in ("mjd_utc", "bmjd_tdb", "flags", *rows) if name in one}
        for key, one in frames.items()
    }
    for key, one in frames.items():
        blank = NamedArray.of(["frame"], np.full(one.sizes["frame"], np.nan))
        whole[key] |= {name: blank for name in rows if name not in one}
    figure = _against_time(whole, rows, height=1.6)
    _mark_unusable(figure, len(rows), whole)
    return figure


def _is_known(dataset: xr.Dataset | CurveArrays, name: str) -> bool:
    return name in dataset and bool(np.isfinite(dataset[name].to_numpy()).any())


def _mark_unusable(figure: Figure, n_rows: int, frames: Mapping[str, Any]) -> None:
    """Ticks at the lower edge where a frame is not usable."""
    axis = best_axis(frames)
    unusable = {key: (one["flags"].to_numpy() & np.uint32(UNUSABLE)) != 0 for key, one in frames.items()}
    n_unusable = sum(int(np.count_nonzero(chosen)) for chosen in unusable.values())
    if not n_unusable:
        return
    panels = np.array(figure.axes).reshape(n_rows, -1)
    times = np.concatenate([axis.since[key][chosen] for key, chosen in unusable.items()])
    for axes in panels.ravel():
        low, high = axes.get_xlim()
        shown = times[(times >= low) & (times <= high)]
        axes.plot(
            shown, np.full(len(shown), 0.03), "|", ms=9, mew=1.2, color="tab:red",
            transform=axes.get_xaxis_transform(), rasterized=len(shown) > MANY_POINTS,
        )  # fmt: skip
    plural = "frame is" if n_unusable == 1 else "frames are"
    panels[0, 0].set_title(f"red: {n_unusable} {plural} not usable", loc="left", color="tab:red", fontsize="medium")
