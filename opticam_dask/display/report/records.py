"""Records that a report is made from: plain data classes without store and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opticam_dask.display.report.thinning import Clock, Column


@dataclass(frozen=True)
class Count:
    """How many things carry a flag, its name, and what it means."""

    name: str
    sentence: str
    count: int


@dataclass(frozen=True)
class NightSummary:
    """Numbers of frames of one part of a night that were reduced, and set aside for which reason."""

    key: str
    night: str
    n_frames: int
    n_done: int
    n_usable: int
    n_clouds: int | None
    flags: Sequence[Count]
    shape: tuple[int, int]
    binning: int
    exposure: tuple[float, float]
    mjd_utc: tuple[float, float]
    step: float
    airmass: tuple[float, float]
    fwhm: float
    photometry: Sequence[tuple[str, int, int]]
    data_root: str

    @property
    def n_set_aside(self) -> int:
        """Frames without photometry, for the reasons in ``flags``."""
        return self.n_done - self.n_usable


@dataclass(frozen=True, eq=False)
class ConditionsNight:
    """Observing conditions of one key and part of a night: columns by name."""

    key: str
    clock: Clock
    columns: Mapping[str, Column]
    flags: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """Fluxes of the embedded sources of a key and photometry label, night by night."""

    key: str
    label: str
    radius: str
    sources: Sequence[int]
    n_sources: int
    has_bmjd: bool
    nights: Sequence[tuple[Clock, Sequence[Column]]]


@dataclass(frozen=True, eq=False)
class RelativeCurve:
    """A differential light curve that is kept in the store."""

    key: str
    name: str
    label: str
    target: int
    comparisons: Sequence[int]
    about: str
    has_bmjd: bool
    nights: Sequence[tuple[Clock, Column]]
    n_used: int
    n_frames: int
    scatter: float
    error: float
    median: float


@dataclass(frozen=True, eq=False)
class FoldedCurve:
    """Means of a light curve in bins of phase, with their errors."""

    phase: np.ndarray
    flux: np.ndarray
    error: np.ndarray


@dataclass(frozen=True, eq=False)
class Period:
    """A significant period of the light curves of a name: days, and frequencies in hertz.

    ``chance`` is the false-alarm probability, ``beta`` the red noise that it takes into account.
    """

    name: str
    period: float
    chance: float
    beta: float
    frequency: np.ndarray
    power: np.ndarray
    folded: Mapping[str, FoldedCurve]
    scale: str


@dataclass(frozen=True, eq=False)
class FittedSeries:
    """Points of a fit of one camera and night: hours since ``zero`` (BJD, TDB), flux without baseline, and model."""

    key: str
    night: str
    zero: float
    hours: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    model: np.ndarray
    is_fitted: np.ndarray


@dataclass(frozen=True, eq=False)
class FittedShape:
    """A fit that is kept in the store: rows of its table (parameter, value with error, unit), and notes."""

    name: str
    shape: str
    rows: Sequence[tuple[str, str, str]]
    notes: Sequence[str]
    series: Sequence[FittedSeries]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Scatter of all sources of a key and label against theory."""

    key: str
    label: str
    source_id: np.ndarray
    median_flux: np.ndarray
    scatter: np.ndarray
    median_error: np.ndarray
    flagged: np.ndarray
    flags: Sequence[Count]
    n_measurements: int
    n_frames: int
    n_frames_read: int
    model: Mapping[str, np.ndarray]
    why_no_model: str


@dataclass(frozen=True, eq=False)
class FieldSky:
    """How a reference image lies on the sky: directions ``(x, y)`` of length 1, and arcseconds of a pixel."""

    north: tuple[float, float]
    east: tuple[float, float]
    scale: float


@dataclass(frozen=True, eq=False)
class Field:
    """Reference image and catalogue of a key, and what was told when the catalogue was made.

    ``catalog`` has ``ra``, ``dec`` and ``name`` where the field is on the sky or the observer named sources, ``placed``
    the numbers of those.
    """

    key: str
    image: np.ndarray
    largest_coverage: int
    fwhm: float
    reference_file: str
    reference_night: str
    catalog: Mapping[str, np.ndarray]
    warnings: Sequence[str] = ()
    placed: Sequence[int] = ()
    sky: FieldSky | None = None


@dataclass(frozen=True, eq=False)
class ProfileNight:
    """Star profile of a key and part of a night."""

    key: str
    night: str
    n_frames: int
    n_stars: int
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SetAside:
    """A frame that was set aside or carries a flag, and why."""

    key: str
    night: str
    file: str
    reason: str


@dataclass(frozen=True)
class BesideFile:
    """A file or a folder beside the report."""

    path: str
    n_files: int | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """All data of the page."""

    instrument: str
    keys: Sequence[str]
    pixel_scales: Mapping[str, float]
    provenance: Mapping[str, Any]
    nights: Sequence[NightSummary]
    conditions: Sequence[ConditionsNight]
    fields: Sequence[Field]
    curves: Sequence[Curves]
    relative: Sequence[RelativeCurve]
    periods: Sequence[Period]
    fits: Sequence[FittedShape]
    statistics: Sequence[Statistics]
    profiles: Sequence[ProfileNight]
    set_aside: Sequence[SetAside]
    n_set_aside: int
    unfinished: Sequence[str] = field(default_factory=tuple)
    files: Sequence[BesideFile] = field(default_factory=tuple)
