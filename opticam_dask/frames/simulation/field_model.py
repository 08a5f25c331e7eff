"""Model of a simulated star field: its parameters, its random numbers, and the headers of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

_KINDS = {
    "field": 0,
    "pointing": 1,
    "photons": 2,
    "read": 3,
    "cosmic rays": 4,
    "detector": 5,
    "bias": 6,
    "dark": 7,
    "flat": 8,
}


@dataclass(frozen=True)
class FieldModel:
    """Parameters of a simulated star field.

    Attributes
    ----------
    n_frames : int
        Frames of each filter.
    shape : (int, int)
        Shape ``(ny, nx)`` of a frame.
    n_sources : int
        Number of stars.
    filters : sequence of str
        OPTICAM filters; each is a camera with noise of its own.
    flux_range : (float, float)
        Faintest and brightest total flux per exposure in electrons, spread evenly in the logarithm.
    moffat_beta : float or None
        Slope of the Moffat wings; None gives Gaussian stars.
    fwhm : float
        Mean seeing in pixels.
    seeing_amplitude : float
        Relative change of the seeing over the run, either way.
    drift : (float, float)
        Motion of the field over the run in pixels, ``(x, y)``.
    rotation : float
        Rotation of the field over the run in degrees.
    flip_after : float or None
        Fraction of the run after which the camera is turned by 180 degrees.
    jitter : float
        Pointing jitter in pixels (1 sigma, each axis).
    sky : float
        Sky in electrons per pixel and exposure.
    sky_gradient : float
        Relative change of the sky from one corner of the frame to the other.
    gain : float
        Electrons per ADU.
    read_noise, dark_current : float
        Electrons per pixel; electrons per pixel and second.
    cosmic_rays : float
        Mean number of hits a frame.
    cloud : (float, float, float) or None
        Depth (0 to 1), centre and width of a dip of the transmission, as fractions of the run.
    variable_source : int or None
        Number of the variable source (from 1, brightest first).
    amplitude : float
        Relative semi-amplitude of its sinusoid.
    frequency : float
        Frequency of its sinusoid, Hz.
    lags : sequence of float
        Phase of the sinusoid in each filter, in radians, positive is ahead: the opposite of the lags of ``Analyzer``,
        which are positive where a camera is behind. One for each filter when a source is variable.
    exposure_time, cadence : float
        Exposure time, and time from one exposure to the next, seconds.
    start : str
        Start of the first exposure, ISO; UTC unless it has an offset.
    binning : int
        Written to the header.
    saturation : float
        Level in ADU at which pixels saturate.
    least_separation : float
        Least distance between stars, in FWHM, so that photometry has one truth.
    flat_structure : float
        Relative scatter of the response from pixel to pixel.
    vignetting : float
        Relative loss of light in the corners.
    dead_pixels, hot_pixels : int
        Pixels that see a tenth of the light or less; pixels with 5 to 50 electrons of dark current a second.
    bias_structure : float
        Scatter of the bias level from pixel to pixel, in ADU.
    bias_level : float
        Mean bias level in ADU; with a sky of few electrons it keeps read noise from being cut at zero.
    """

    n_frames: int = 50
    shape: tuple[int, int] = (256, 256)
    n_sources: int = 20
    filters: Sequence[str] = ("g", "r", "i")
    flux_range: tuple[float, float] = (2e3, 2e5)
    moffat_beta: float | None = 3.0
    fwhm: float = 4.0
    seeing_amplitude: float = 0.0
    drift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    flip_after: float | None = None
    jitter: float = 0.5
    sky: float = 200.0
    sky_gradient: float = 0.0
    gain: float = 1.0
    read_noise: float = 1.3
    dark_current: float = 0.0
    cosmic_rays: float = 0.0
    cloud: tuple[float, float, float] | None = None
    variable_source: int | None = None
    amplitude: float = 0.02
    frequency: float = 0.02
    lags: Sequence[float] = field(default_factory=lambda: (0.0, 0.0, 0.0))
    exposure_time: float = 5.0
    cadence: float = 6.0
    start: str = "2024-01-01T03:00:00"
    binning: int = 4
    saturation: float = 65535.0
    least_separation: float = 6.0
    flat_structure: float = 0.0
    vignetting: float = 0.0
    dead_pixels: int = 0
    hot_pixels: int = 0
    bias_structure: float = 0.0
    bias_level: float = 100.0

    def __post_init__(self) -> None:
        """Refuse parameters that make no sense."""
        _check(self)


def _check(model: FieldModel) -> None:
    """Refuse what cannot be simulated, before it becomes frames that look real."""
    beta, variable, faintest = model.moffat_beta, model.variable_source, model.flux_range[0]
    depth, _, width = model.cloud or (None, 0.0, 0.0)
    rules = [
        ("n_frames", model.n_frames >= 1, "at least 1"),
        ("n_sources", model.n_sources >= 1, "at least 1"),
        ("filters", len(set(model.filters)) == len(model.filters) > 0, "at least one, none twice"),
        ("flux_range", 0 < faintest <= model.flux_range[1], "(faintest, brightest), both above 0"),
        ("moffat_beta", beta is None or beta > 1.0, "above 1 (the light of a star is infinite otherwise) or None"),
        ("fwhm", model.fwhm > 0, "above 0"),
        ("seeing_amplitude", abs(model.seeing_amplitude) < 1, "between -1 and 1"),
        ("sky", model.sky >= 0, "at least 0"),
        ("sky_gradient", abs(model.sky_gradient) <= 2, "between -2 and 2 (the sky is negative otherwise)"),
        ("gain", model.gain > 0, "above 0"),
        ("read_noise", model.read_noise >= 0, "at least 0"),
        ("dark_current", model.dark_current >= 0, "at least 0"),
        ("cloud", depth is None or (0 <= depth <= 1 and width > 0), "None or (depth 0 to 1, centre, width above 0)"),
        ("variable_source", variable is None or 1 <= variable <= model.n_sources, f"None or 1 to {model.n_sources}"),
        ("lags", variable is None or len(model.lags) >= len(model.filters), "one for each filter"),
        ("flat_structure", 0 <= model.flat_structure < 0.3, "at least 0 and below 0.3"),
        ("vignetting", 0 <= model.vignetting < 1, "at least 0 and below 1"),
        ("dead_pixels", model.dead_pixels >= 0, "at least 0"),
        ("hot_pixels", model.hot_pixels >= 0, "at least 0"),
        ("bias_structure", model.bias_structure >= 0, "at least 0"),
        ("bias_level", model.bias_level >= 0, "at least 0"),
        ("amplitude", variable is None or abs(model.amplitude) <= 1, "between -1 and 1"),
    ]
    for name, is_good, expected in rules:
        if not is_good:
            raise ValueError(f"{name} must be {expected}, got {getattr(model, name)!r}")


def random_stream(seed: int, kind: str, camera: int = 0, index: int = 0) -> np.random.Generator:
    """Random numbers of one kind for one frame: others may be added without these changing."""
    return np.random.default_rng([seed, _KINDS[kind], camera, index])


def header_of(model: FieldModel, filter_name: str, moment: datetime) -> dict[str, Any]:
    """Header of a simulated frame."""
    return {
        "FILTER": filter_name,
        "BINNING": f"{model.binning}x{model.binning}",
        "GAIN": model.gain,
        "EXPOSURE": model.exposure_time,
        "DARKCURR": model.dark_current,
        "SATLEVEL": model.saturation,
        "INSTRUME": "OPTICAM",
        "RA": "03:30:00.0",
        "DEC": "+20:00:00.0",
        "UT": moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
    }
