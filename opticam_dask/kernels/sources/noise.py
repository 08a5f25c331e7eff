"""Errors of fluxes from the CCD equation."""

from __future__ import annotations

import numpy as np

#: Stars narrower than this FWHM (pixels) are undersampled: how their light falls on pixels depends on where in its
#: pixel a star is.
UNDERSAMPLED = 2.5

#: What a profile gets wrong of undersampled stars, as a share of the flux, at the FWHM of the next constant.
#: In simulated nights of Gaussians and of Moffat functions (beta 3), integrated over the pixels, total fluxes by
#: optimal weights scatter beyond their errors by 6 % at a FWHM of 1.2 pixels (on the pixels), 2 % at 1.4,
#: 1 % at 1.75 and 0.4 % at 2.1; those in apertures of 1 FWHM by about two thirds of that; Gaussians by less.
_MISFIT = 0.06
#: FWHM at which the share holds, pixels.
_MISFIT_FWHM = 1.2
#: Power of the FWHM with which the share falls.
_MISFIT_POWER = 5


def aperture_variance(
    weights: np.ndarray,
    cutouts: np.ndarray,
    rms: np.ndarray,
    response: np.ndarray | None = None,
    told: np.ndarray | None = None,
) -> np.ndarray:
    """Variance of weighted sums of pixels.

    The variance of a pixel is its source electrons plus the square of the background RMS, which has the noise of
    sky, dark current and read-out in it already (they are counted once). With weights ``w`` the sum has the
    variance ``sum(w^2 source / response) + sum(w^2 rms^2)`` (Merline & Howell 1995, Exp. Astron. 6, 163). The source
    part is taken from the pixels themselves; it is summed before it is clipped at zero, since clipping noisy pixels
    one by one would make it too large.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Share of each pixel in the aperture.
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted electrons; NaN pixels do not count.
    rms : ndarray, shape (n, size, size)
        Background RMS in electrons.
    response : ndarray, shape (n, size, size), optional
        Master flat: ``s`` electrons of a divided frame are ``s * response`` counted ones, with their noise.
    told : ndarray, shape (n, size, size), optional
        Variance of each pixel by the file that it comes from, with that of the source: it stands in the place of the
        above wherever it is not NaN.

    Returns
    -------
    ndarray, shape (n,)
        Variance in electrons squared; NaN where the RMS of a pixel that counts is NaN.
    """
    has_data = np.isfinite(cutouts)
    counted = np.where(has_data, weights, 0.0)
    return weighted_variance(counted, np.where(has_data, cutouts, 0.0), rms, response, told)


def weighted_variance(
    weights: np.ndarray,
    source: np.ndarray,
    rms: np.ndarray,
    response: np.ndarray | None = None,
    told: np.ndarray | None = None,
) -> np.ndarray:
    """Variance of weighted sums of pixels whose source electrons are known; see :func:`aperture_variance`.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        0 where a pixel does not count.
    source : ndarray, shape (n, size, size)
        Electrons of the source, from the pixels or from a model.
    rms, response, told
        Background RMS in electrons, master flat, and variance by the file, as :func:`aperture_variance` takes them.

    Returns
    -------
    ndarray, shape (n,)
    """
    squared = weights**2
    if told is not None:
        is_told = np.isfinite(told)
        source, rms = np.where(is_told, 0.0, source), np.where(is_told, np.sqrt(told), rms)
    photons = squared * source if response is None else squared * source / np.where(squared > 0, response, 1.0)
    # where the RMS is unknown the error is: only pixels that do not count may lack it
    sky = np.sum(squared * np.where(squared > 0, rms, 0.0) ** 2, axis=(1, 2))
    variance: np.ndarray = np.maximum(np.sum(photons, axis=(1, 2)), 0.0) + sky
    return variance


def sky_level_variance(weights: np.ndarray, is_good: np.ndarray, sky_error: np.ndarray) -> np.ndarray:
    """Variance that an error of the sky level, common to all pixels of a window, gives to their weighted sum.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Weight of each pixel of the cut-outs.
    is_good : ndarray of bool, shape (n, size, size)
        Pixels that count.
    sky_error : ndarray, shape (n,)
        Error of the level, electrons per pixel.

    Returns
    -------
    ndarray, shape (n,)
        ``(sum(w) sky_error)^2``: the last term of Merline & Howell (1995) for an annulus of ``N`` pixels, where
        ``sky_error = rms / sqrt(N)``.
    """
    variance: np.ndarray = (np.sum(np.where(is_good, weights, 0.0), axis=(1, 2)) * sky_error) ** 2
    return variance


def sampling_error(fwhm: float) -> float:
    """Relative error of fluxes by a radial profile, where pixels are as large as the stars.

    Parameters
    ----------
    fwhm : float
        FWHM of the stars as the pixels sample them, in pixels.

    Returns
    -------
    float
        ``0.06 ((1.2 / fwhm)^5 - (1.2 / 2.5)^5)``, from simulated nights; 0 from a FWHM of 2.5 pixels. What is the same
        in all frames and stars is not in it, part of it is the same in all stars of a frame.
    """
    if not fwhm < UNDERSAMPLED:
        return 0.0
    narrow, wide = (_MISFIT_FWHM / width for width in (fwhm, UNDERSAMPLED))
    return float(_MISFIT * (narrow**_MISFIT_POWER - wide**_MISFIT_POWER))


def response_error(weights: np.ndarray, source: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Error of weighted sums from that of the master flat; it is the same in all frames with the same pixels.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Weight of each pixel of the cut-outs.
    source : ndarray, shape (n, size, size)
        Sky-subtracted electrons; NaN pixels do not count.
    relative : ndarray, shape (n, size, size)
        Relative 1-sigma error of the response.

    Returns
    -------
    ndarray, shape (n,)
    """
    terms = np.where(weights != 0, weights * np.nan_to_num(source) * relative, 0.0)
    error: np.ndarray = np.sqrt(np.sum(terms**2, axis=(1, 2)))
    return error


def noise_components(
    flux: np.ndarray,
    *,
    n_pixels: float,
    sky: float,
    dark: float = 0.0,
    read_noise: float = 0.0,
    n_read_pixels: float | None = None,
    scintillation: float = 0.0,
) -> dict[str, np.ndarray]:
    """Noise of an aperture flux, component by component, from the CCD equation.

    The variance is ``flux + n_pixels sky + n_read dark + n_read read_noise^2 + (scintillation flux)^2``: shot noise of
    source, sky and dark current, read-out noise (Merline & Howell 1995, Exp. Astron. 6, 163, without the error of the
    sky level), and scintillation. All is in electrons, so that no gain appears: frames in ADU are multiplied by theirs
    first.

    Parameters
    ----------
    flux : ndarray
        Electrons of the source inside the aperture.
    n_pixels : float
        Area of the aperture in pixels of the image.
    sky : float
        Variance of the sky in electrons squared per pixel of the image: for shot noise alone its level in electrons.
    dark : float
        Dark signal of the exposure in electrons per pixel of the detector.
    read_noise : float
        Electrons per pixel of the detector.
    n_read_pixels : float, optional
        Area of the aperture in pixels of the detector: ``n_pixels`` times the square of the factor of rebinning. By
        default ``n_pixels``.
    scintillation : float
        Relative scatter by scintillation, see :func:`scintillation_noise`.

    Returns
    -------
    dict of ndarray
        1-sigma noise in electrons, of the shape of ``flux``: source, sky, dark, read, scintillation, and total.
    """
    signal = np.maximum(np.asarray(flux, dtype=float), 0.0)
    n_read = n_pixels if n_read_pixels is None else n_read_pixels
    variances = {
        "source": signal,
        "sky": np.full_like(signal, n_pixels * max(sky, 0.0)),
        "dark": np.full_like(signal, n_read * max(dark, 0.0)),
        "read": np.full_like(signal, n_read * read_noise**2),
        "scintillation": (scintillation * signal) ** 2,
    }
    total = np.sum(list(variances.values()), axis=0)
    return {name: np.sqrt(values) for name, values in {**variances, "total": total}.items()}


def scintillation_noise(
    *,
    diameter: float,
    exposure_time: np.ndarray | float,
    airmass: np.ndarray | float,
    height: float = 0.0,
    coefficient: float = 1.5,
) -> np.ndarray:
    """Relative scatter of the flux of a star by scintillation.

    ``sigma^2 = 10^-5 C^2 D^(-4/3) t^-1 X^3 exp(-2 h / H)`` with ``H`` = 8000 m: Young's approximation as modified by
    Osborn et al. (2015, MNRAS 452, 1707, equation 7). It is for exposures longer than the time in which the turbulence
    crosses the mirror (about 0.1 s for 2 m), and a median of many nights: on a given night it may be half or twice so
    large.

    Parameters
    ----------
    diameter : float
        Diameter of the telescope, in metres.
    exposure_time : float or ndarray, shape (n,)
        Exposure time, seconds.
    airmass : float or ndarray, shape (n,)
        Airmass.
    height : float
        Height of the observatory above sea level, in metres.
    coefficient : float
        Empirical coefficient of the site in m^(2/3) s^(1/2); 1.5 is the median of the sites in that paper.

    Returns
    -------
    ndarray, shape (n,)
        1-sigma error of the flux relative to the flux; NaN where airmass or exposure time are not known, or the latter
        is zero.
    """
    exposure, thickness = np.asarray(exposure_time, dtype=float), np.asarray(airmass, dtype=float)
    variance = 1e-5 * coefficient**2 * diameter ** (-4.0 / 3.0) / np.where(exposure > 0.0, exposure, np.nan)
    relative: np.ndarray = np.sqrt(variance * thickness**3 * np.exp(-2.0 * height / 8000.0))
    return relative


def common_scatter(flux: np.ndarray, scatter: np.ndarray, error: np.ndarray) -> float:
    """Relative scatter that sources share beyond their errors: clouds, seeing, scintillation.

    The median over the brighter half of the sources of ``sqrt(scatter^2 - error^2) / flux``: a variable source among
    them does not move it.

    Parameters
    ----------
    flux, scatter, error : ndarray, shape (n,)
        Median flux, standard deviation over the frames, and 1-sigma error of each source.

    Returns
    -------
    float
        0 for fewer than four sources, which cannot tell what is common.
    """
    known = (flux > 0) & np.isfinite(scatter) & (error > 0)
    if np.count_nonzero(known) < 4:
        return 0.0
    bright = known & (flux >= np.median(flux[known]))
    excess = np.sqrt(np.maximum(scatter[bright] ** 2 - error[bright] ** 2, 0.0)) / flux[bright]
    return float(np.median(excess))
