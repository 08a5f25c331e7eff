"""Fluxes of stars that overlap: the night's star profile fitted to all stars of a group at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.sources import joint_fit, photometry
from opticam_dask.kernels.sources.profiles.profile import (
    Shape,
    elliptical_radius,
    forms_at,
    light_of_forms,
    position_slopes,
)
from opticam_dask.methods import frame_stars, places
from opticam_dask.methods.frame_view import FrameView, Measurement
from opticam_dask.methods.photometers import OPTIMAL_REACH, OptimalPhotometer

#: Pixels that stand out of the fit of a group are left out in this many rounds at most.
_CLIPS = 5


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
        Largest distance of stars that are fitted together, in FWHM of the frame.

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
        shape = frame_stars.star_shape(view, frame_stars.star_sigma(view, np.nan))
        xy = np.column_stack([alone.x, alone.y])
        flux, error, flags = alone.flux.copy(), alone.flux_err.copy(), alone.flags.copy()
        reach = self.group_separation * photometry.SIGMA_TO_FWHM * shape.sigma
        misfit_error = frame_stars.sampling_error(view, shape)
        others = places.neighbours_of(view, xy, OPTIMAL_REACH * shape.semimajor_sigma, shape)[:, :2]
        for members, near in joint_fit.group_sources(xy, reach, others):
            together = np.concatenate([xy[members], others[near]])
            flux[members], error[members], is_hit = self._fit_group(view, together, alone, members, shape)
            error[members] = np.hypot(error[members], misfit_error * flux[members])
            flags[members[is_hit]] |= np.uint32(SourceFlag.CONTAMINATED)
            if misfit_error == 0.0:
                # what the neighbours of the group shed is accounted for
                flags[members] &= ~np.uint32(SourceFlag.BLENDED)
        return replace(alone, flux=flux, flux_err=error, flags=flags)

    def _fit_group(
        self, view: FrameView, xy: np.ndarray, alone: Measurement, members: np.ndarray, shape: Shape
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fluxes of the members of one group, their errors, and whose pixels are not all of these stars.

        The places ``xy`` are those of the members, and of stars behind them that are fitted with them.
        """
        group = places.read_group(view, xy, shape)
        electrons, size, table = group.electrons, group.size, frame_stars.profile_table(view)
        sky_error = view.sky_error * float(np.median(group.rms[group.is_good])) if group.is_good.any() else 0.0
        if alone.background is not None and alone.background_err is not None:
            level = 0.0 if view.level_at is None else view.level_at(group.x0, group.y0, size)[0]
            electrons = electrons + level - np.nanmean(alone.background[members])
            sky_error = float(np.nanmean(alone.background_err[members]))
        elif view.local_sky is not None and np.isfinite(view.local_sky.error[members]).any():
            electrons = electrons - view.local_sky.level_of_group(members, group.x0, group.y0, size)
            sky_error = float(np.nanmax(view.local_sky.error_in(members, size)))
        corners = np.repeat(group.x0, len(xy)), np.repeat(group.y0, len(xy))
        forms = forms_at(shape, xy)
        light = light_of_forms(table, xy, *corners, size, forms)
        slopes = position_slopes(table, xy, corners, size, forms)
        fit = functools.partial(
            joint_fit.fit_fluxes,
            light,
            electrons,
            group.rms,
            response=group.response,
            sky_error=sky_error,
            slopes=slopes,
            position_error=view.position_error,
            are_fitted=not self.forced,
        )
        used = group.is_good
        flux, error = fit(used)
        own = slice(len(members))
        for _ in range(_CLIPS):
            model = np.tensordot(np.nan_to_num(flux), light, axes=1)
            moving = np.nan_to_num(flux)[:, None, None, None] * slopes * (view.position_error if self.forced else 0.0)
            _, stray = places.stray_in_group(view, group, electrons, model, shape, np.sum(moving**2, axis=(0, 1)))
            if not (stray & used).any():
                break
            used = group.is_good & ~stray
            flux, error = fit(used)
        near = elliptical_radius(xy, *corners, size, shape) < OPTIMAL_REACH
        return flux[own], error[own], np.any(near & group.is_good & ~used, axis=(1, 2))[own]
