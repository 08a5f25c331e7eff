"""Photometers: what is measured of each catalogue source in each frame.

A photometer is anything with a ``label`` and a method ``measure(view) -> Measurement``. It sees one frame through a
:class:`FrameView`: where the catalogue's sources should be, what was detected, and sky-subtracted cut-outs on demand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels import noise, photometry

#: A centroid this many sigma of the PSF away from its detection was dragged by a neighbour.
_LARGEST_DRAG = 0.6

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
        The same for flags of pixels; ``cosmic_rays_at`` gives None when cosmic rays were not looked for.
    response_at : callable, optional
        The same for the response of the pixels by which the frame was divided (the master flat, 1 on average): a
        pixel of ``s`` electrons was counted as ``s * response``. None without a flat.
    response_error_at : callable, optional
        1-sigma error of the response, common to all frames.
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
    response_at: CutOuts | None = None
    response_error_at: CutOuts | None = None


@dataclass(frozen=True)
class Measurement:
    """Fluxes of all catalogue sources in one frame; arrays of shape (n,).

    Attributes
    ----------
    flux, flux_err : ndarray
        Electrons per exposure; NaN where there are no pixels.
    x, y : ndarray
        Where the source was measured.
    flags : ndarray of uint32
        Bits of ``SourceFlag``.
    """

    flux: np.ndarray
    flux_err: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flags: np.ndarray


@dataclass(frozen=True)
class AperturePhotometer:
    """Flux inside an aperture.

    Parameters
    ----------
    forced : bool
        Measure at the transformed catalogue positions and do not recentre.
    source_matching_tolerance : float
        A detection is the source when it is within this many sigma of the PSF.
    semimajor_axis, semiminor_axis, orientation : float, optional
        Fixed ellipse on the reference frame: semi-axes in pixels, angle in degrees; all three or none.
    radius : float, optional
        Radius of a circle in pixels of the reference frame; by default one FWHM of the catalogue.

    Raises
    ------
    ValueError
        When the aperture is not fully given, or not positive and finite.
    """

    forced: bool = False
    source_matching_tolerance: float = 5.0
    semimajor_axis: float | None = None
    semiminor_axis: float | None = None
    orientation: float | None = None
    radius: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no aperture."""
        ellipse = (self.semimajor_axis, self.semiminor_axis, self.orientation)
        if any(value is None for value in ellipse) and any(value is not None for value in ellipse):
            raise ValueError("an elliptical aperture needs semimajor_axis, semiminor_axis and orientation")
        if self.semimajor_axis is not None and self.radius is not None:
            raise ValueError("give either a radius or an ellipse, not both")
        for name in ("semimajor_axis", "semiminor_axis", "radius", "source_matching_tolerance"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be greater than 0 and finite, got {value}")
        if self.orientation is not None and not np.isfinite(self.orientation):
            raise ValueError(f"orientation must be an angle in degrees, got {self.orientation}")

    @property
    def label(self) -> str:
        """Name of the result: ``aperture`` or ``forced_aperture``."""
        return "forced_aperture" if self.forced else "aperture"

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame.

        Raises
        ------
        ValueError
            When the aperture follows from the FWHM of the catalogue and that is not known.
        """
        xy, flags = self._positions(view)
        size = 2 * int(np.ceil(self._reach(view))) + 3
        x0, y0 = photometry.origins(xy, size)
        weights = self._weights(view, xy, x0, y0, size)
        cutouts = view.cutouts_at(x0, y0, size)
        flux, _ = photometry.aperture_flux(cutouts, weights)
        error = np.sqrt(noise.aperture_variance(weights, cutouts, view.rms_at(x0, y0, size)))
        flags = flags | _pixel_flags(view, weights, cutouts, x0, y0)
        return Measurement(flux, np.where(np.isfinite(flux), error, np.nan), xy[:, 0], xy[:, 1], flags)

    def _sigma(self, view: FrameView) -> float:
        """Sigma of the PSF in pixels of the frame."""
        for fwhm in (view.frame_fwhm, view.fwhm * view.scale):
            if np.isfinite(fwhm) and fwhm > 0:
                return fwhm / photometry.SIGMA_TO_FWHM
        # nobody knows the seeing, but whoever chose the aperture had an idea of it
        return min(self._axes(view)) / photometry.SIGMA_TO_FWHM

    def _positions(self, view: FrameView) -> tuple[np.ndarray, np.ndarray]:
        """Where to measure, and what there is to say about it."""
        predicted = np.asarray(view.predicted_xy, dtype=float)
        sigma = self._sigma(view)
        matched = photometry.match_one_to_one(predicted, view.detected_xy, self.source_matching_tolerance * sigma)
        flags = np.where(matched < 0, np.uint32(SourceFlag.NOT_DETECTED), np.uint32(0))
        found = np.flatnonzero(matched >= 0)
        if self.forced or not len(found):
            return predicted, flags
        detected = np.asarray(view.detected_xy, dtype=float)[matched[found]]
        size = 2 * int(np.ceil(4.0 * sigma)) + 3
        x0, y0 = photometry.origins(detected, size)
        cutouts, rms = view.cutouts_at(x0, y0, size), view.rms_at(x0, y0, size)
        centres, converged = photometry.windowed_centroids(cutouts, x0, y0, detected, sigma)
        converged &= np.hypot(*(centres - detected).T) < _LARGEST_DRAG * sigma
        positions = predicted.copy()
        weight = photometry.recentring_weight(cutouts, rms, x0, y0, centres, sigma, prior_sigma=view.position_error)
        moved = predicted[found] + weight[:, None] * (centres - predicted[found])
        positions[found] = np.where(converged[:, None], moved, predicted[found])
        flags[found[~converged]] |= np.uint32(SourceFlag.NOT_RECENTRED)
        return positions, flags

    def _axes(self, view: FrameView) -> tuple[float, float]:
        """Semi-axes in pixels of the frame."""
        if self.semimajor_axis is not None and self.semiminor_axis is not None:
            return self.semimajor_axis * view.scale, self.semiminor_axis * view.scale
        radius = self.radius if self.radius is not None else view.fwhm
        if not (np.isfinite(radius) and radius > 0):
            raise ValueError(f"the FWHM of the catalogue is {radius}: give the aperture a radius in pixels")
        return radius * view.scale, radius * view.scale

    def _reach(self, view: FrameView) -> float:
        return max(self._axes(view))

    def _weights(self, view: FrameView, xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        semimajor, semiminor = self._axes(view)
        if self.orientation is None:
            return photometry.circular_weights(xy, x0, y0, size, semimajor)
        theta = np.deg2rad(self.orientation + view.rotation)
        return photometry.elliptical_weights(xy, x0, y0, size, semimajor, semiminor, theta)


def _pixel_flags(
    view: FrameView, weights: np.ndarray, cutouts: np.ndarray, x0: np.ndarray, y0: np.ndarray
) -> np.ndarray:
    """Derive flags from the pixels of the apertures."""
    size = weights.shape[1]
    inside, on_frame = weights > 0, _on_frame(view.shape, x0, y0, size)
    hit = view.cosmic_rays_at(x0, y0, size)
    is_there = np.any(inside & on_frame, axis=(1, 2))
    conditions = {
        SourceFlag.OFF_FRAME: ~is_there,
        SourceFlag.EDGE: is_there & np.any(inside & ~on_frame, axis=(1, 2)),
        SourceFlag.BAD_PIXEL: np.any(inside & on_frame & ~np.isfinite(cutouts), axis=(1, 2)),
        SourceFlag.SATURATED: np.any(inside & view.saturated_at(x0, y0, size), axis=(1, 2)),
        SourceFlag.COSMIC_RAY: np.zeros(len(inside), bool) if hit is None else np.any(inside & hit, axis=(1, 2)),
    }
    flags = np.zeros(len(inside), dtype=np.uint32)
    for flag, is_set in conditions.items():
        flags[is_set] |= np.uint32(flag)
    return flags


def _on_frame(shape: tuple[int, int], x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Which pixels of the windows lie on the frame, shape (n, size, size)."""
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    return ((rows >= 0) & (rows < shape[0]))[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None, :]
