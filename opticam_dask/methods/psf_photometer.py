"""Fluxes of stars that overlap: the night's star profile fitted to all stars of a group at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import joint_fit, photometry
from opticam_dask.kernels.sources.profile import Shape, elliptical_radius, profile_weights
from opticam_dask.methods import measuring
from opticam_dask.methods.frame_view import FrameView, Measurement
from opticam_dask.methods.photometers import OPTIMAL_REACH, OptimalPhotometer


@dataclass(frozen=True)
class PSFPhotometer(OptimalPhotometer):
    """Total fluxes by fitting the night's star profile, to stars that overlap together.

    A star that stands alone has the flux of :class:`OptimalPhotometer`. Stars nearer to each other than
    ``group_separation`` FWHM are fitted at once by linear least squares, at the positions that the other photometers
    measure at; so a faint star beside a bright one gets no light of it. Where stars are narrower than 2.5 pixels
    (FWHM), that is not sure enough: there such stars keep the flag ``blended``.

    Parameters
    ----------
    forced, source_matching_tolerance, local_background_estimator
        See :class:`~opticam_dask.methods.photometers.BasePhotometer`.
    group_separation : float
        In FWHM of the frame.

    Raises
    ------
    ValueError
        When ``group_separation`` is not greater than 0 and finite.
    """

    group_separation: float = 4.0

    _name = "psf"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        super().__post_init__()
        if not 0 < self.group_separation < np.inf:
            raise ValueError(f"group_separation must be greater than 0 and finite, got {self.group_separation}")

    def measure(self, view: FrameView) -> Measurement:
        """Measure all catalogue sources in one frame."""
        alone = super().measure(view)
        shape = measuring.star_shape(view, measuring.star_sigma(view, np.nan))
        xy = np.column_stack([alone.x, alone.y])
        flux, error, flags = alone.flux.copy(), alone.flux_err.copy(), alone.flags.copy()
        reach = self.group_separation * photometry.SIGMA_TO_FWHM * shape.sigma
        for members in joint_fit.group_sources(xy, reach):
            flux[members], error[members] = self._fit_group(view, xy[members], alone, members, shape)
            misfit = measuring.sampling_error(shape)
            error[members] = np.hypot(error[members], misfit * flux[members])
            if misfit == 0.0:
                # what the neighbours of the group shed is accounted for
                flags[members] &= ~np.uint32(SourceFlag.BLENDED)
        return replace(alone, flux=flux, flux_err=error, flags=flags)

    def _fit_group(
        self, view: FrameView, xy: np.ndarray, alone: Measurement, members: np.ndarray, shape: Shape
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fluxes of the members of one group, and their errors."""
        half = int(np.ceil(np.ptp(xy, axis=0).max() / 2.0 + OPTIMAL_REACH * shape.semimajor_sigma)) + 1
        size = 2 * half + 1
        x0, y0 = photometry.origins((xy.min(axis=0) + xy.max(axis=0))[None] / 2.0, size)
        electrons, rms = view.cutouts_at(x0, y0, size)[0], view.rms_at(x0, y0, size)[0]
        hit = view.cosmic_rays_at(x0, y0, size)
        is_good = np.isfinite(electrons) if hit is None else np.isfinite(electrons) & ~hit[0]
        sky_error = view.sky_error * float(np.median(rms[is_good])) if is_good.any() else 0.0
        if alone.background is not None and alone.background_err is not None:
            level = 0.0 if view.level_at is None else view.level_at(x0, y0, size)[0]
            electrons = electrons + level - np.nanmean(alone.background[members])
            sky_error = float(np.nanmean(alone.background_err[members]))
        corners = np.repeat(x0, len(xy)), np.repeat(y0, len(xy))
        light = profile_weights(measuring.profile_table(view), xy, *corners, size, shape)
        # every star shines on every pixel that is fitted; fitted is what is near a star
        is_near = np.any(elliptical_radius(xy, *corners, size, shape) < OPTIMAL_REACH, axis=0)
        response = None if view.response_at is None else view.response_at(x0, y0, size)[0]
        return joint_fit.fit_fluxes(light, electrons, rms, is_good & is_near, response, sky_error)
