"""Tasks that make a master: one looks at a frame, one combines a strip of rows of all frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.cluster import watchdog
from opticam_dask.frames.fits.read_pixels import level_as_read
from opticam_dask.kernels.images import calibrate
from opticam_dask.kernels.images import masters as kernel
from opticam_dask.passes.calibration import Kind
from opticam_dask.steps.frame_steps import FrameProblem, FrameSteps
from opticam_dask.steps.read import read_raw, read_stored

#: A strip of all frames holds at most this many pixels; combining it takes about 50 bytes a pixel.
_STRIP_PIXELS = 4_000_000


@dataclass(frozen=True)
class MasterJob:
    """Everything a task needs to work on one master frame.

    Attributes
    ----------
    kind : {"bias", "dark", "flat", "fringe"}
        Kind of the calibration frames.
    steps : FrameSteps
        How the frames are read and calibrated, by the masters that were made before this one.
    entries : tuple of dict
        What the headers say, a dictionary a frame.
    levels : tuple of float
        Median of each flat or fringe frame, which it is divided by.
    """

    kind: Kind
    steps: FrameSteps
    entries: tuple[dict[str, Any], ...]
    levels: tuple[float, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether the master is a map of fringes that is ready, so that nothing is combined."""
        return self.kind == "fringe" and len(self.entries) == 1

    @property
    def is_of_light(self) -> bool:
        """Whether the frames saw light, by which they are divided."""
        return self.kind in ("flat", "fringe") and not self.is_ready

    @property
    def n_rows(self) -> int:
        """Rows of a strip: a pure function of shape and number of the frames."""
        ny, nx = self.steps.shape
        return int(np.clip(_STRIP_PIXELS // (len(self.entries) * nx), 1, ny))

    @property
    def n_strips(self) -> int:
        """Number of strips."""
        return -(-self.steps.shape[0] // self.n_rows)


def inspect_frame(job: MasterJob, index: int) -> tuple[int, float, str]:
    """Median of one frame in ADU, without bias and dark, and why the frame cannot be used (nothing when it can)."""
    entry = {**job.entries[index], "memory": {}}
    watchdog.still_working()
    if job.kind == "dark" and not entry["exposure_time"] > 0:
        return index, np.nan, f"the exposure time of a dark must be above 0, found {entry['exposure_time']:g} s"
    try:
        values = _corrected(job, entry, slice(None))
    except FrameProblem as problem:
        return index, np.nan, problem.message
    level = float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan
    if job.is_of_light and not level > 0:
        return index, level, f"no light: the median is {level:g} ADU without bias and dark"
    limit = float(np.fmin.reduce(level_as_read(read_stored(job.steps, entry), entry["linearity_limit"]), axis=None))
    if job.is_of_light and level >= limit:
        return index, level, f"not linear: the median is {level:g} ADU, the limit {limit:g}"
    return index, level, ""


class Strip(NamedTuple):
    """Some rows of a master: mean, its variance, the spread of darks, and why frames could not be read any more."""

    number: int
    mean: np.ndarray
    variance: np.ndarray
    spread: np.ndarray
    lost: dict[str, str]


def combine_strip(job: MasterJob, strip: int) -> Strip:
    """Combine the rows of one strip over all frames."""
    rows = slice(strip * job.n_rows, min((strip + 1) * job.n_rows, job.steps.shape[0]))
    frames = []
    lost: dict[str, str] = {}
    for index, entry in enumerate(job.entries):
        watchdog.still_working()
        try:
            values = _corrected(job, entry, rows)
        except FrameProblem as problem:
            lost[entry["file"]] = problem.message
            values = np.full((rows.stop - rows.start, job.steps.shape[1]), np.nan)
        frames.append(values / job.levels[index] if job.is_of_light else values)
    values = np.stack(frames)
    mean, variance = (values[0], np.zeros_like(values[0])) if job.is_ready else kernel.combine(values)
    spread = kernel.spread(values) if job.kind == "dark" else np.full(mean.shape, np.nan)
    return Strip(strip, mean, variance, spread, lost)


def _corrected(job: MasterJob, entry: Mapping[str, Any], rows: slice) -> np.ndarray:
    """Rows of a frame without what the masters before it say, in ADU, or ADU per second of a dark.

    Raises
    ------
    FrameProblem
    """
    raw = read_raw(job.steps, entry)[rows]
    if job.kind == "bias" or job.is_ready:
        return raw.astype(float)
    masters = job.steps.read_masters()
    layers = {name: values[rows] for name, values in masters.layers().items()}
    # in ADU: gain 1, and the header's dark current in ADU as well
    dark_current = entry["dark_current"] / entry["gain"] if job.is_of_light else 0.0
    values = calibrate.to_electrons(
        raw,
        gain=1.0,
        dark_current=dark_current,
        exposure_time=entry["exposure_time"],
        dark_gain=None if masters.dark_gain is None else masters.dark_gain / entry["gain"],
        dtype=np.float64,
        **layers,
    )
    if job.kind != "dark":
        return values
    # in ADU of the first dark; without a bias they hold that, which no gain tells
    scale = entry["gain"] / job.entries[0]["gain"] if masters.bias is not None else 1.0
    return values * (scale / entry["exposure_time"]) if scale != 1.0 else values / entry["exposure_time"]
