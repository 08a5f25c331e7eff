"""Parameters of what is made of light curves: fits, magnitudes and files for archives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from opticam_dask.parameters import DIFFERENTIAL, Parameter

#: Light curves that a fit is made to.
FITTED_CURVES: Mapping[str, Parameter] = {
    **{name: DIFFERENTIAL[name] for name in ("target", "target_radius")},
    "comparisons": replace(DIFFERENTIAL["comparisons"], is_required=False, default=("auto",)),
    "weighting": replace(DIFFERENTIAL["weighting"], default="optimal"),
    **{name: DIFFERENTIAL[name] for name in ("outliers", "match_cameras", "label", "radius", "key", "prefix")},
}

_BASELINE = Parameter(
    "What the flux may depend on linearly: airmass, x, y, fwhm, background, transparency, ellipticity, time",
    default=("airmass",),
    n_values="*",
    metavar="VECTOR",
)
_SAMPLER: Mapping[str, Parameter] = {
    "n_steps": Parameter(
        "Steps of each walker; 0 takes the posterior as a Gaussian",
        default=1500,
        kind=int,
        least=0,
        metavar="N",
    ),
    "seed": Parameter("Seed of the sampler", default=0, kind=int, least=0, metavar="S"),
}
_DEPTHS = Parameter("One for each camera, or one that they share", default="each", choices=("each", "shared"))

#: Fit of a transit.
TRANSIT: Mapping[str, Parameter] = {
    "period": Parameter("Period of the planet", kind=float, unit="days", above=0, metavar="DAYS", is_required=True),
    "mid_time": Parameter(
        "BJD (TDB) of any transit, where the search begins",
        follows="the deepest dip",
        kind=float,
        metavar="BJD",
    ),
    "a_over_rs": Parameter(
        "Semi-major axis in radii of the star, or that and its 1-sigma error",
        follows="free",
        kind=float,
        n_values="+",
        above=1,
        metavar="A",
    ),
    "inclination": Parameter(
        "Inclination of the orbit, or that and its 1-sigma error",
        follows="free",
        kind=float,
        unit="degrees",
        n_values="+",
        above=0,
        most=90,
        metavar="I",
    ),
    "limb_darkening": Parameter(
        "Coefficients of the quadratic limb darkening, or those of each camera in turn",
        default=(0.4, 0.25),
        kind=float,
        n_values="+",
        metavar="U",
    ),
    "eccentricity": Parameter("Eccentricity of the orbit", default=0.0, kind=float, least=0, metavar="E"),
    "periastron": Parameter("Argument of the periastron", default=90.0, kind=float, unit="degrees", metavar="W"),
    "depths": replace(_DEPTHS, default="shared"),
    "baseline": replace(_BASELINE, default=("airmass", "x", "y")),
    **_SAMPLER,
}

#: Fit of an eclipse.
ECLIPSE: Mapping[str, Parameter] = {
    "mid_time": Parameter(
        "BJD (TDB) of any eclipse, where the search begins",
        follows="the deepest dip",
        kind=float,
        metavar="BJD",
    ),
    "duration": Parameter(
        "From first to last contact, where the search begins",
        follows="several are tried",
        kind=float,
        unit="days",
        above=0,
        metavar="DAYS",
    ),
    "period": Parameter(
        "Time between eclipses, where there is more than one",
        follows="one eclipse",
        kind=float,
        unit="days",
        above=0,
        metavar="DAYS",
    ),
    "depths": _DEPTHS,
    "baseline": _BASELINE,
    **_SAMPLER,
}

#: Fit of a sinusoid.
SINUSOID: Mapping[str, Parameter] = {
    "period": Parameter(
        "Period, where the search begins",
        follows="the highest peak of the periodogram",
        kind=float,
        unit="days",
        above=0,
        metavar="DAYS",
    ),
    "depths": _DEPTHS,
    "baseline": _BASELINE,
    **_SAMPLER,
}
