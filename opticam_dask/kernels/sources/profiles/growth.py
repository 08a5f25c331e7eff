"""Growth curves and stellar profiles: how the light of a source is spread over the pixels around it."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.sources import photometry


def growth_curve(
    image: np.ndarray,
    xy: np.ndarray,
    radii: np.ndarray,
    *,
    background: float | np.ndarray = 0.0,
    variance: float | np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Flux in growing circular apertures; a pixel counts by the exact share of its area inside.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Electrons; NaN pixels do not count.
    xy : ndarray, shape (n, 2)
        Centres in pixels.
    radii : ndarray, shape (n_radii,)
        Pixels, above 0.
    background : float or ndarray of shape (n,)
        Sky level to subtract, electrons per pixel.
    variance : float or ndarray of shape (ny, nx), optional
        Variance of the pixels in electrons squared, taken to be independent; without it errors are NaN.

    Returns
    -------
    flux : ndarray, shape (n, n_radii)
        Electrons; NaN where no pixel of the aperture has data.
    error : ndarray, shape (n, n_radii)
        1-sigma error: the root of ``sum(w^2 variance)`` with the shares ``w``.

    Raises
    ------
    ValueError
        When there is no radius, or one is not positive and finite.
    """
    radii = np.asarray(radii, dtype=float)
    if not radii.size or not np.all(np.isfinite(radii) & (radii > 0)):
        raise ValueError(f"radii must be positive and finite numbers of pixels, got {radii.tolist()}")
    xy = np.asarray(xy, dtype=float)
    level = np.broadcast_to(np.asarray(background, dtype=float), (len(xy),))
    flux, error = np.full((len(xy), len(radii)), np.nan), np.full((len(xy), len(radii)), np.nan)
    size = 2 * int(np.ceil(radii.max())) + 3
    pixel_variance = None if variance is None else np.broadcast_to(np.asarray(variance, dtype=float), image.shape)
    # source by source: a hundred windows and their weights at once would be large
    for index in range(len(xy)):
        one = xy[index : index + 1]
        x0, y0 = photometry.origins(one, size)
        cutout = photometry.cut_out(image, x0, y0, size) - level[index]
        spread = None if pixel_variance is None else photometry.cut_out(pixel_variance, x0, y0, size)
        for column, radius in enumerate(radii.tolist()):
            weights = photometry.circular_weights(one, x0, y0, size, radius)
            flux[index, column] = photometry.aperture_flux(cutout, weights)[0][0]
            if spread is not None and np.isfinite(flux[index, column]):
                counted = np.isfinite(cutout) & (weights > 0)
                error[index, column] = np.sqrt(np.sum(weights[counted] ** 2 * spread[counted]))
    return flux, error


def gaussian_profile(
    shape: tuple[int, int], xy: tuple[float, float], semimajor: float, semiminor: float, theta: float
) -> np.ndarray:
    """Elliptical Gaussian of peak 1 at the pixel centres.

    Parameters
    ----------
    shape : (int, int)
        Shape ``(ny, nx)`` of the image to make.
    xy : (float, float)
        Centre in pixels.
    semimajor, semiminor : float
        1-sigma semi-axes in pixels.
    theta : float
        Angle of the major axis from the x axis, counter-clockwise, in radians.

    Returns
    -------
    ndarray, shape (ny, nx)
    """
    rows, columns = np.indices(shape)
    dx, dy = columns - xy[0], rows - xy[1]
    along, across = dx * np.cos(theta) + dy * np.sin(theta), dy * np.cos(theta) - dx * np.sin(theta)
    return np.asarray(np.exp(-0.5 * ((along / semimajor) ** 2 + (across / semiminor) ** 2)))


def fit_amplitude(image: np.ndarray, profile: np.ndarray) -> tuple[float, float]:
    """Peak and level of a profile of known shape: linear least squares over the pixels that have data.

    Parameters
    ----------
    image, profile : ndarray, shape (ny, nx)
        The image, and the profile that is scaled to it.

    Returns
    -------
    amplitude, level : float
        ``image = amplitude * profile + level``; NaN when fewer than three pixels have data.
    """
    known = np.isfinite(image) & np.isfinite(profile)
    if np.count_nonzero(known) < 3 or np.ptp(profile[known]) == 0:
        return float("nan"), float("nan")
    centred = profile[known] - profile[known].mean()
    amplitude = float(np.sum(centred * image[known]) / np.sum(centred**2))
    return amplitude, float(image[known].mean() - amplitude * profile[known].mean())
