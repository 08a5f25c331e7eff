"""Input and output of a photometer: the view of one frame, and the measurement of its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from opticam_dask.kernels.images.sky.uneven import LocalSky
from opticam_dask.kernels.sources.profiles.profile import Shape

#: Cut-outs ``(n, size, size)`` at lower corners ``(x0, y0)``.
CutOuts = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class FrameView:
    """One frame as a photometer sees it.

    Attributes
    ----------
    predicted_xy : ndarray, shape (n, 2)
        Positions of the catalogue's sources on the frame, from its transform.
    detected_xy, detected_flux : ndarray, shape (m, 2) and (m,)
        Sources that were detected in the frame.
    scale : float
        Frame pixels per reference pixel.
    rotation : float
        Angle by which the reference is turned to lie on the frame, counter-clockwise, in degrees.
    fwhm : float
        Typical FWHM of the catalogue, in pixels of the reference frame.
    frame_fwhm : float
        FWHM of this frame in its pixels; NaN when unknown.
    position_error : float
        How far a source may be from its predicted position, in pixels (1 sigma along an axis): the residuals of the
        transform.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.
    cutouts_at, rms_at : callable
        ``(x0, y0, size) -> (n, size, size)``: sky-subtracted electrons, and background RMS; NaN beyond the frame.
    saturated_at, cosmic_rays_at : callable
        ``(x0, y0, size)`` -> which pixels are saturated, or hit by a cosmic ray. ``cosmic_rays_at`` gives None when
        cosmic rays were not looked for.
    variance_at : callable, optional
        ``(x0, y0, size)`` -> variance of the pixels, electrons squared, from the errors that are stored in the file of
        the frame; the noise of the sources is in it. It gives None for a file without errors.
    response_at : callable, optional
        ``(x0, y0, size)`` -> response of the pixels by which the frame was divided (the master flat, 1 on average): a
        pixel of ``s`` electrons was counted as ``s * response``. None without a flat.
    response_error_at : callable, optional
        ``(x0, y0, size)`` -> 1-sigma error of the response, common to all frames.
    non_linear_at : callable, optional
        ``(x0, y0, size)`` -> which pixels are above the level up to which the detector is linear; None when no such
        level is known.
    lasting_at : callable, optional
        ``(x0, y0, size)`` -> which pixels are hot or dark all night; ``cutouts_at`` gives NaN for them. None without
        any.
    level_at : callable, optional
        ``(x0, y0, size)`` -> sky that ``cutouts_at`` has taken off, electrons; None counts as 0.
    sky_error : float
        1-sigma error of the sky that ``cutouts_at`` has taken off, in units of the background RMS, common to the
        pixels of one source.
    local_sky : LocalSky, optional
        Rest of an uneven sky around each source, which ``cutouts_at`` has not taken off.
    usual_sky : (float, float), optional
        Median of the sky over the frame, and of its background RMS, electrons.
    stars : Shape, optional
        Size and form of the frame's stars, in its pixels.
    profile : ndarray, optional
        Table of the night's star profile in the seeing of the frame (``kernels.sources.profiles.profile.Tables.at``).
    sampling : ndarray, optional
        Relative error of fluxes by ``profile`` where pixels are as large as the stars, for stars of each FWHM in
        ``kernels.sources.profiles.sampling.SAMPLED_AT``.
    is_measured_profile : bool
        Whether ``profile`` was measured on stars; otherwise it is a Gaussian, which defocused stars do not look like.
    catalog_flux : ndarray, shape (n,), optional
        Fluxes of the sources in the catalogue, which tell how much neighbours disturb each other.
    neighbours : ndarray, shape (m, 3), optional
        Predicted x and y of fainter sources of the stack, which are not measured, and their flux there.
    flux_scale : float
        Flux of a constant star in the frame relative to that in the catalogue.
    known : dict
        What photometers have found out about the frame for each other: errors of the profile, by the size of windows
        and the shape of the stars. Empty in a copy of the view of which something else is replaced.
    """

    predicted_xy: np.ndarray
    detected_xy: np.ndarray
    detected_flux: np.ndarray
    scale: float
    rotation: float
    fwhm: float
    frame_fwhm: float
    position_error: float
    shape: tuple[int, int]
    cutouts_at: CutOuts
    rms_at: CutOuts
    saturated_at: CutOuts
    cosmic_rays_at: Callable[[np.ndarray, np.ndarray, int], np.ndarray | None]
    variance_at: Callable[[np.ndarray, np.ndarray, int], np.ndarray | None] | None = None
    response_at: CutOuts | None = None
    response_error_at: CutOuts | None = None
    non_linear_at: CutOuts | None = None
    lasting_at: CutOuts | None = None
    level_at: CutOuts | None = None
    sky_error: float = 0.0
    local_sky: LocalSky | None = None
    usual_sky: tuple[float, float] | None = None
    stars: Shape | None = None
    profile: np.ndarray | None = None
    sampling: np.ndarray | None = None
    is_measured_profile: bool = True
    catalog_flux: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    flux_scale: float = 1.0
    known: dict[Any, Any] = field(init=False, default_factory=dict, compare=False, repr=False)

    def told_variance(self, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray | None:
        """Variance of pixels by their file, electrons squared, ``(n, size, size)``; None where it tells none."""
        return None if self.variance_at is None else self.variance_at(x0, y0, size)


@dataclass(frozen=True)
class Measurement:
    """Fluxes, errors, positions and flags of all catalogue sources in one frame.

    Attributes
    ----------
    flux, flux_err : ndarray, shape (n,) or (n, radius)
        Electrons per exposure; NaN where there are no pixels.
    x, y : ndarray, shape (n,)
        Where the source was measured.
    flags : ndarray of uint32, shape (n,) or (n, radius)
        Bits of ``SourceFlag``.
    flux_err_sys : ndarray, shape (n,) or (n, radius), optional
        Error that is common to all frames (from the master flat).
    aperture_correction : ndarray, shape (n,) or (n, radius), optional
        Total flux of a star relative to ``flux``.
    background, background_err : ndarray, shape (n,), optional
        Local sky and its error, electrons per pixel.
    profile_chi2 : ndarray, shape (n,), optional
        Reduced chi-square of the pixels about the star profile of the frame.
    """

    flux: np.ndarray
    flux_err: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flags: np.ndarray
    flux_err_sys: np.ndarray | None = None
    aperture_correction: np.ndarray | None = None
    background: np.ndarray | None = None
    background_err: np.ndarray | None = None
    profile_chi2: np.ndarray | None = None


@dataclass(frozen=True)
class TrialFluxes:
    """Fluxes of the catalogue's sources in several apertures in some frames of the reference night.

    Attributes
    ----------
    radii : tuple of float
        In FWHM of the catalogue.
    flux, flux_err : ndarray, shape (frame, source, radius)
        Fluxes and their 1-sigma errors, electrons.
    is_flagged : ndarray of bool, shape (frame, source, radius)
        Measurements with a flag that makes them useless.
    """

    radii: tuple[float, ...]
    flux: np.ndarray
    flux_err: np.ndarray
    is_flagged: np.ndarray


@dataclass(frozen=True)
class CatalogFacts:
    """Facts about a catalogue that a photometer may adapt to, the same for all frames of a camera key.

    Attributes
    ----------
    flux : ndarray, shape (n,)
        Fluxes of the catalogue's sources, electrons.
    fwhm : float
        Typical FWHM of the catalogue, in pixels of the reference frame.
    background_rms : float
        Background RMS, median over the frames of the reference night, electrons per pixel.
    profile : ndarray
        Table of the star profile of the reference night.
    trial : TrialFluxes, optional
        Fluxes in several apertures, by which the best radius is chosen; only measured where that is asked for.
    """

    flux: np.ndarray
    fwhm: float
    background_rms: float
    profile: np.ndarray
    trial: TrialFluxes | None = None


class Photometer(Protocol):
    """Interface of a photometer.

    Three more attributes are optional: ``variables``, the further variables of ``schema.PHOTOMETRY`` that it measures
    (every label has flux, error, position and flags); ``radii``, where its results have a last dimension ``radius``;
    and ``prepare(facts)``, which returns the photometer adapted to a catalogue (:class:`CatalogFacts`).
    """

    @property
    def label(self) -> str:
        """Name of the result."""
        ...

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame."""
        ...
