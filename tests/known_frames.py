"""Single frames of which sky, profile and places are known, as a photometer sees them: for tests of photometers."""

from __future__ import annotations

import functools

import numpy as np
from small_nights import SIGMA_TO_FWHM, add_star

from opticam_dask import AperturePhotometer, DefaultLocalBackground, OptimalPhotometer, PSFPhotometer
from opticam_dask.kernels.sources import moments, photometry
from opticam_dask.kernels.sources.profiles import field_form, profile, profile_fit, ring_sums
from opticam_dask.methods.frame_view import FrameView

#: Every photometer, with the sky of the mesh and of an annulus, forced and recentred.
PHOTOMETERS = [
    kind(forced=forced, local_background_estimator=sky)
    for kind in (AperturePhotometer, OptimalPhotometer, PSFPhotometer)
    for forced in (False, True)
    for sky in (None, DefaultLocalBackground())
]
LABELS = [photometer.label for photometer in PHOTOMETERS]

#: Electrons per pixel.
SKY, READ_NOISE = 100.0, 3.0


@functools.cache
def shape_and_table(fwhm: float, beta: float | None, ratio: float = 1.0) -> tuple[profile.Shape, np.ndarray]:
    """Form and profile of noiseless stars, measured as those of a night are."""
    rng, rings, shape = np.random.default_rng(0), [], None
    for _ in range(60):
        image, xy = np.zeros((121, 121)), 60.0 + rng.uniform(-0.5, 0.5, (1, 2))
        add_star(image, *xy[0], 1e7, fwhm, beta, ratio=ratio)
        if shape is None:
            shape = profile.Shape(*moments.source_shapes(image, xy, np.array([fwhm / SIGMA_TO_FWHM]))[:, 0])
        corner = np.array([0])
        rings.append(ring_sums.measure_rings(image[None], np.full((1, 121, 121), 10.0), xy, corner, corner, shape))
    return shape, profile_fit.fit_profile(ring_sums.add_rings(rings)).table()


def view_of(pixels, xy, detected, flux, form, *, position_error=0.07, saturated=None):
    """The view of a frame whose sky is known."""
    shape, table = form
    fwhm = shape.sigma * SIGMA_TO_FWHM
    is_saturated = np.zeros(pixels.shape) if saturated is None else saturated.astype(float)

    def cuts(values):
        return lambda x0, y0, size: photometry.cut_out(values, x0, y0, size)

    return FrameView(
        predicted_xy=xy,
        detected_xy=detected,
        detected_flux=np.arange(len(detected), 0.0, -1.0),
        scale=1.0,
        rotation=0.0,
        fwhm=fwhm,
        frame_fwhm=fwhm,
        position_error=position_error,
        shape=pixels.shape,
        cutouts_at=cuts(pixels),
        rms_at=cuts(np.full(pixels.shape, np.hypot(np.sqrt(SKY), READ_NOISE))),
        saturated_at=lambda x0, y0, size: photometry.cut_out(is_saturated, x0, y0, size) > 0,
        cosmic_rays_at=lambda x0, y0, size: None,
        stars=shape,
        profile=table,
        catalog_flux=flux,
    )


def field_shape(image, xy, rough, noise, **options):
    """FWHM and form of the stars of a frame of which rough widths are known."""
    return field_form.field_shape(image, xy, moments.source_shapes(image, xy, rough), noise, **options)


def noisy(image, rng):
    return rng.poisson(image + SKY) + rng.normal(0.0, READ_NOISE, image.shape) - SKY


def measured(photometer, view, truth, flux):
    """Pull of the total flux, distance from the true place, and flags of each source."""
    found = photometer.measure(view)
    correction = 1.0 if found.aperture_correction is None else found.aperture_correction
    pull = (found.flux * correction - flux) / (found.flux_err * correction)
    return np.column_stack([pull, np.hypot(*(np.column_stack([found.x, found.y]) - truth).T), found.flags])
