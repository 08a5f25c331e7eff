"""Errors of a radial star profile where stars are as narrow as pixels."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM
from opticam_dask.kernels.sources.profiles.profile import Profile, Shape, elliptical_radius, light_at, profile_weights

#: FWHM (pixels) at which the sampling of a profile is looked at; stars at least as wide as the last are sampled.
SAMPLED_AT = np.arange(1.0, 2.501, 0.1)

#: Places along each axis of a quarter of a pixel that a star is put at.
_PLACES = 3

#: Nodes along each axis of a pixel by which light is integrated over it.
_NODES = 4

#: Pixels along a side of the windows that light is integrated in.
_WINDOW = 21

#: Weights of a flux reach so many sigma.
_REACH = 4.5

#: No frame of a night is this many times sharper than what its profile was measured in.
_SHARPER = 2.0


def sampling_errors(fitted: Profile) -> np.ndarray | None:
    """Relative scatter of fluxes with the star's place in its pixel, for a radial profile at FWHM ``SAMPLED_AT``.

    A pixel is a square: what it collects of a star as narrow as itself is not a function of the distance alone. The
    functions that the profile is made of are integrated over the pixels with the star at several places in its pixel,
    and the flux is measured with the weights that the radial profile has. In simulated stars (Moffat functions of
    slopes 3 and 4) fluxes scatter by 0.75 to 0.9 of this.

    Parameters
    ----------
    fitted : Profile
        Star profile of a night.

    Returns
    -------
    ndarray, shape (len(SAMPLED_AT),), or None
        1 sigma, less what it is at the last FWHM; zeros for stars much wider than pixels. None for a profile that was
        not measured and knows nothing of its pixels.
    """
    if not fitted.pixel_area > 0:
        return None
    if SIGMA_TO_FWHM / np.sqrt(fitted.pixel_area) > _SHARPER * SAMPLED_AT[-1]:
        return np.zeros(len(SAMPLED_AT))
    as_it_falls = Profile(fitted.coefficients).table()
    table, (nodes, shares) = fitted.table(), np.polynomial.legendre.leggauss(_NODES)
    places = (np.arange(_PLACES) + 0.5) / (2.0 * _PLACES)
    xy = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2) + _WINDOW // 2
    corner = np.zeros(len(xy), dtype=int)
    fine = (np.arange(_WINDOW)[:, None] + nodes / 2.0).ravel()
    distance = np.hypot(fine[None, None, :] - xy[:, 0, None, None], fine[None, :, None] - xy[:, 1, None, None])
    scatter = np.empty(len(SAMPLED_AT))
    for row, sigma in enumerate((SAMPLED_AT / SIGMA_TO_FWHM).tolist()):
        light = light_at(as_it_falls, distance / sigma) / sigma**2
        nested = light.reshape(len(xy), _WINDOW, _NODES, _WINDOW, _NODES)
        collected = np.einsum("niajb,a,b->nij", nested, shares / 2.0, shares / 2.0)
        shape = Shape(sigma, sigma, 0.0)
        weights = profile_weights(table, xy, corner, corner, _WINDOW, shape)
        weights[elliptical_radius(xy, corner, corner, _WINDOW, shape) >= _REACH] = 0.0
        flux = np.sum(weights * collected, axis=(1, 2)) / np.sum(weights**2, axis=(1, 2))
        scatter[row] = np.std(flux) / np.mean(flux)
    return np.maximum(scatter - scatter[-1], 0.0)
