"""Parameters of results made from a reduction: sky coordinates, light curves, fits, magnitudes, files for archives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from opticam_dask.parameters import Parameter

#: Where on the sky the cameras looked.
SKY: Mapping[str, Parameter] = {
    "sources": Parameter(
        "Sources to measure beside those that are found: name, and ra and dec or x and y (CSV, ECSV, FITS, VOTable)",
        follows="none",
        metavar="FILE",
    ),
    "moving": Parameter(
        "Ephemerides of moving targets: time, ra and dec, or two places alone; a target has the name of its file",
        default=(),
        kind=str,
        n_values="+",
        metavar="FILE",
    ),
    "sky_catalog": Parameter(
        "Stars around the field: CSV, ECSV, FITS or VOTable with RA and Dec",
        follows="headers",
        kind=str,
        metavar="FILE",
    ),
    "sky_epoch": Parameter(
        "Epoch of the sky catalogue's positions, Julian years",
        follows="its column ref_epoch",
        kind=float,
        metavar="YEAR",
    ),
    "wcs": Parameter(
        "Plate-solved copies of aligned frames, under the names of those frames",
        default=(),
        kind=str,
        n_values="+",
        metavar="FILE",
    ),
    "pointing": Parameter(
        "RA and Dec that the telescope pointed to, degrees or 05:34:31 -05:23:28",
        follows="headers",
        kind=str,
        n_values=2,
        metavar=("RA", "DEC"),
    ),
    "pixel_scale": Parameter(
        "Scale of the reduced pixels, to 5 per cent",
        follows="header or instrument",
        kind=float,
        unit="arcseconds",
        metavar="ARCSEC",
    ),
}

#: A light curve of a target against comparison sources.
DIFFERENTIAL: Mapping[str, Parameter] = {
    "target": Parameter(
        "Number of the target in the catalogue, name, or RA and Dec",
        kind=str,
        n_values="+",
        metavar="ID",
        is_required=True,
    ),
    "target_radius": Parameter(
        "Largest distance of the source from the place", default=3.0, kind=float, unit="arcseconds", metavar="ARCSEC"
    ),
    "comparisons": Parameter(
        "Numbers or names of the comparison sources, or auto",
        kind=str,
        n_values="+",
        metavar="ID",
        is_required=True,
    ),
    "weighting": Parameter(
        "Comparisons are weighted by their light, or by their errors and scatter",
        default="sum",
        choices=("sum", "optimal"),
    ),
    "shared_trends": Parameter("Take off trends that the comparisons share, by SysRem", default=False, kind=bool),
    "detrend": Parameter(
        "Take off linear trends with airmass, fwhm, background, x, y, ellipticity, transparency, time",
        default=(),
        n_values="+",
        metavar="VECTOR",
    ),
    "detrend_without": Parameter(
        "Start and end of the times that trends are not fitted to (a transit), in BMJD, or MJD without one",
        kind=float,
        n_values=2,
        metavar=("START", "END"),
    ),
    "outliers": Parameter(
        "Distance from the neighbouring fluxes beyond which a flux is flagged",
        default=5.0,
        kind=float,
        unit="sigma",
        above=0,
        metavar="K",
    ),
    "without": Parameter(
        "Sources that auto does not choose as comparisons", default=(), kind=str, n_values="+", metavar="ID"
    ),
    "match_cameras": Parameter("Find target and comparisons of --key in all cameras", default=False, kind=bool),
    "label": Parameter("Photometry label", default="aperture", metavar="L"),
    "radius": Parameter("One of the radii of a label that has several", kind=float, metavar="R"),
    "key": Parameter("Camera key such as 1:g", follows="all cameras", metavar="KEY"),
    "prefix": Parameter("Name of the result", follows="target_ID", metavar="NAME"),
}

#: What observers say about frames, measurements and comparisons.
MARKS: Mapping[str, Parameter] = {
    "kind": Parameter("What is the matter", choices=("cloud", "junk", "keep", "transform"), is_required=True),
    "key": Parameter("Camera key such as 1:g", metavar="KEY", is_required=True),
    "frames": Parameter("Names of the files of frames", default=(), n_values="+", metavar="FILE"),
    "times": Parameter("Frames between these times, MJD or dates, UTC", n_values=2, metavar=("START", "END")),
    "sources": Parameter("Sources to mark", default=(), follows="all sources", n_values="+", metavar="ID"),
    "pairs": Parameter(
        "For a transform: sources of the catalogue, each with its x and y in the frame; two or more of them",
        default=(),
        kind=float,
        n_values="+",
        metavar="ID X Y",
    ),
    "label": Parameter("Photometry label", default="", follows="all labels", metavar="L"),
    "why": Parameter("Reason", default="", metavar="TEXT"),
    "who": Parameter("Name of the observer", default="", follows="the name of the user", metavar="NAME"),
}

#: What is shown of a reduction.
SHOWING: Mapping[str, Parameter] = {
    "problems": Parameter("Unusable files that are listed; 0 lists all", default=20, kind=int, least=0, metavar="N"),
    "n_sources": Parameter(
        "Sources of each camera with a light curve, the brightest first", default=20, kind=int, least=0, metavar="N"
    ),
    "port": Parameter(
        "Port on the loopback interface; 0 is a free one", default=0, kind=int, least=0, most=65535, metavar="N"
    ),
    "targets": Parameter(
        "Numbers of sources in the catalogue, names, or places as one word",
        follows="all sources",
        n_values="+",
        metavar="ID",
    ),
    "label": DIFFERENTIAL["label"],
    "json": Parameter("Answer with one JSON object instead of lines", default=False, kind=bool),
    "quiet": Parameter("Say nothing but errors", default=False, kind=bool),
    "verbose": Parameter("Show the log with its times as well, also that of the cluster", default=False, kind=bool),
}

#: Light curves that a fit is made to.
FITTED_CURVES: Mapping[str, Parameter] = {
    **{name: DIFFERENTIAL[name] for name in ("target", "target_radius")},
    "comparisons": replace(DIFFERENTIAL["comparisons"], is_required=False, default=("auto",)),
    "weighting": replace(DIFFERENTIAL["weighting"], default="optimal"),
    **{
        name: DIFFERENTIAL[name]
        for name in ("shared_trends", "outliers", "without", "match_cameras", "label", "radius", "key", "prefix")
    },
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
_DEPTHS = Parameter(
    "A depth or amplitude for each camera, or one for all of them", default="each", choices=("each", "shared")
)

#: Longest period that is believed, days.
_CENTURY = 36525.0


def _mid_time(event: str) -> Parameter:
    sentence = f"BJD (TDB) of any {event}, where the search begins"
    return Parameter(sentence, follows="the deepest dip", kind=float, metavar="BJD")


def _days(sentence: str, follows: str = "", *, most: float | None = _CENTURY) -> Parameter:
    """A length of time that a fit begins with, or that is known."""
    return Parameter(sentence, follows=follows, kind=float, unit="days", above=0, most=most, metavar="DAYS")


#: Fit of a transit.
TRANSIT: Mapping[str, Parameter] = {
    "period": replace(_days("Period of the planet"), is_required=True),
    "mid_time": _mid_time("transit"),
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
    "mid_time": _mid_time("eclipse"),
    "duration": _days("From first to last contact, where the search begins", "several are tried", most=None),
    "period": _days("Time between eclipses, where there is more than one", "one eclipse"),
    "depths": _DEPTHS,
    "baseline": _BASELINE,
    **_SAMPLER,
}

#: Fit of a sinusoid.
SINUSOID: Mapping[str, Parameter] = {
    "period": _days("Period, where the search begins", "the highest peak of the periodogram"),
    "depths": _DEPTHS,
    "baseline": _BASELINE,
    **_SAMPLER,
}

#: Magnitudes of a catalogue.
MAGNITUDES: Mapping[str, Parameter] = {
    **{name: DIFFERENTIAL[name] for name in ("target", "target_radius")},
    "band": Parameter("Band of the sky catalogue", follows="that of the filter's name", metavar="BAND"),
    "colour": Parameter(
        "Two bands whose difference is the colour of a colour term",
        default=(),
        follows="no colour term",
        n_values=2,
        metavar=("BAND", "BAND"),
    ),
    "target_colour": Parameter("Colour of the target", follows="that of the catalogue", kind=float, metavar="MAG"),
    "limit_sigma": Parameter(
        "Fluxes below this multiple of their error become upper limits", default=3.0, kind=float, above=0, metavar="K"
    ),
    **{name: DIFFERENTIAL[name] for name in ("label", "radius", "key", "prefix")},
}

#: Files for archives.
SUBMISSION: Mapping[str, Parameter] = {
    "name": Parameter("Name of a light curve that is kept in the store", follows="the only one", metavar="NAME"),
    "key": Parameter("Camera key such as 1:g", follows="all cameras that keep the light curve", metavar="KEY"),
    "observer": Parameter("File with the codes of observer, telescope and bands", metavar="FILE"),
    "star": Parameter("Name of the star, or of the minor planet", default="", metavar="NAME"),
    "planet": Parameter("Name of the planet", default="", metavar="NAME"),
    "number": Parameter("Number of the minor planet; 0 where it has none", default=0, kind=int, least=0, metavar="N"),
    "designation": Parameter("Provisional designation of the minor planet", default="", metavar="NAME"),
    "notes": Parameter("Remarks for the archive", default="", metavar="TEXT"),
    "chart": Parameter("Number of the chart of comparison stars (AAVSO)", default="", metavar="CHART"),
    "leave_out": Parameter(
        "Frames with one of these flags are left out",
        follows="outlier for transits, else none",
        n_values="*",
        metavar="FLAG",
    ),
}
