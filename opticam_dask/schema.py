"""The vocabulary of the store: name, dimensions, type, unit and one sentence of every variable.

Every array in a reduction store is made from an entry of :data:`GROUPS`; a name that is not here cannot be
written. Arrays are ``(y, x)``, positions are ``(x, y)`` at 0-based pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

import numpy as np

from opticam_dask.flags import FrameFlag, QualityFlag, SourceFlag, flag_attributes

#: Version of the layout. Since 1.1 every chunk of a finished block is a file, also where all values are fill values;
#: since 1.8 the marks of observers are records in one file, which older versions would overlook.
SCHEMA_VERSION = "1.8"

#: Variables of manifest and first pass that a version added, by group; a migrated store has them empty.
ADDED: dict[str, dict[str, tuple[str, ...]]] = {
    "1.1": {
        "frames": ("semimajor_sigma", "semiminor_sigma", "orientation"),
        "background": ("background_offset_mesh",),
    },
    "1.2": {"frames": ("linearity_limit", "ra", "dec")},
    "1.3": {"background": ("background_mean_mesh", "background_n_sky")},
    "1.4": {"frames": ("form_terms",)},
    "1.5": {"frames": ("extension", "plane")},
    "1.6": {"frames": ("fringe_scale",)},
    "1.7": {"frames": ("file_ctime", "file_checksum")},
}

#: Older versions that can be read as they are, and brought to the present one before anything is written.
READABLE_VERSIONS = ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", SCHEMA_VERSION)

#: Time stamps are days; the scale is part of the name and of the attributes (no CF "since" units, which
#: readers would decode to nanosecond integers of unknown scale).
_UTC = {"time_scale": "utc", "time_format": "mjd", "time_reference": "mid-exposure, at the observatory"}
_TDB = {"time_scale": "tdb", "time_format": "mjd", "time_reference": "mid-exposure, at the barycentre"}


@dataclass(frozen=True)
class Variable:
    """One stored array."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    fill: Any = np.nan
    attributes: dict[str, Any] = field(default_factory=dict)
    flag_type: type[IntFlag] | None = None

    def all_attributes(self) -> dict[str, Any]:
        """Attributes written beside the array: unit, sentence, and what the flags mean."""
        attributes: dict[str, Any] = {"units": self.units, "long_name": self.long_name, **self.attributes}
        if self.flag_type is not None:
            attributes.update(flag_attributes(self.flag_type))
        return attributes


def _float(name: str, dims: tuple[str, ...], units: str, long_name: str, **attributes: Any) -> Variable:
    return Variable(name, dims, "float64", units, long_name, np.nan, attributes)


def _count(name: str, dims: tuple[str, ...], long_name: str, dtype: str = "int32") -> Variable:
    return Variable(name, dims, dtype, "1", long_name, 0)


def _text(name: str, dims: tuple[str, ...], long_name: str) -> Variable:
    return Variable(name, dims, "str", "1", long_name, "")


#: Dimensions of variables.
_FRAME = ("frame",)
_SOURCE = ("source",)
_PIXEL = ("y", "x")
_MESH = ("frame", "mesh_y", "mesh_x")
_SLOT = ("frame", "slot")
_CELL = ("frame", "source")

MANIFEST = (
    _text("file", _FRAME, "path of the frame, relative to the attribute data_root"),
    _count("extension", _FRAME, "HDU of the frame where its file holds several images, from 0; 0 for ordinary files"),
    _count("plane", _FRAME, "plane of a cube, from 1; 0 for an image that is no cube"),
    Variable("file_size", _FRAME, "int64", "byte", "size of the file when it was scanned", 0),
    _float("file_mtime", _FRAME, "s", "modification time of the file when it was scanned (Unix time)"),
    _float("file_ctime", _FRAME, "s", "time of the last change of its name, permissions or content then (Unix time)"),
    _count("file_checksum", _FRAME, "checksum of its header and of some pixels then; 0 when unknown", "int64"),
    _float("mjd_utc", _FRAME, "d", "Modified Julian Date, UTC, mid-exposure", **_UTC),
    _float("bmjd_tdb", _FRAME, "d", "Barycentric Modified Julian Date, TDB, mid-exposure", **_TDB),
    _float("exposure_time", _FRAME, "s", "exposure time"),
    _float("gain", _FRAME, "electron adu-1", "gain of the detector"),
    _float("dark_current", _FRAME, "electron pixel-1 s-1", "dark current, unbinned by rebinning"),
    _float("read_noise", _FRAME, "electron pixel-1", "read noise"),
    _float("saturation", _FRAME, "adu", "level at which pixels are saturated; NaN when unknown"),
    _float("linearity_limit", _FRAME, "adu", "level up to which the detector is linear; NaN when unknown"),
    _float("airmass", _FRAME, "1", "airmass from the header"),
    _float("ra", _FRAME, "deg", "right ascension that barycentric time and airmass are computed for"),
    _float("dec", _FRAME, "deg", "declination that barycentric time and airmass are computed for"),
    Variable("scan_flags", _FRAME, "uint32", "1", "what the headers alone say about the frame", 0, {}, FrameFlag),
)

FRAMES = (
    _float("background", _FRAME, "electron pixel-1", "sky background: median of the mesh"),
    _float("background_rms", _FRAME, "electron pixel-1", "scatter of the sky background: median of the mesh"),
    _float("fwhm", _FRAME, "pixel", "median full width at half maximum of the bright sources"),
    _float("semimajor_sigma", _FRAME, "pixel", "1-sigma semi-major axis of the mean moments of the bright sources"),
    _float("semiminor_sigma", _FRAME, "pixel", "1-sigma semi-minor axis of the mean moments of the bright sources"),
    _float("orientation", _FRAME, "deg", "angle of the major axis of the mean moments, counter-clockwise from x"),
    _float(
        "form_terms",
        ("frame", "moment", "term"),
        "pixel2",
        "what is to be added to the mean moments (xx, yy, xy) at a place of the frame: coefficients of 1, u, v, u^2, "
        "u v, v^2, where u and v run from -1 to 1 along x and y",
    ),
    _float(
        "fringe_scale",
        _FRAME,
        "electron pixel-1",
        "what the map of fringes was multiplied by before it was taken off; NaN where there is none",
    ),
    _count("n_sources", _FRAME, "number of detected sources, whether stored or not"),
    _count("n_matched", _FRAME, "number of sources matched to the reference frame"),
    _float("transform", ("frame", "row", "column"), "1", "3x3 matrix: reference (x, y, 1) to frame pixel"),
    _float(
        "transform_rms",
        _FRAME,
        "pixel",
        "rms distance of the matched sources from the transform; error if borrowed",
    ),
    _text("message", _FRAME, "why the frame was set aside; empty when it was not"),
    Variable("flags", _FRAME, "uint32", "1", "quality of the frame", 0, {}, FrameFlag),
)

BACKGROUND = (
    _float("background_mesh", _MESH, "electron pixel-1", "sky background at the mesh points"),
    _float("background_rms_mesh", _MESH, "electron pixel-1", "scatter of the sky at the mesh points"),
    _float("background_offset_mesh", _MESH, "electron pixel-1", "what the mesh leaves behind: added for photometry"),
    _float("background_mean_mesh", _MESH, "electron pixel-1", "mean of the pixels of the box that are sky"),
    _count("background_n_sky", _MESH, "sky pixels of the box: away from all detections; 0 also when not counted"),
)

_SHAPE_VARIABLES = (
    ("semimajor_sigma", "pixel", "1-sigma semi-major axis of the source"),
    ("semiminor_sigma", "pixel", "1-sigma semi-minor axis of the source"),
    ("orientation", "deg", "angle of the major axis, counter-clockwise from the x axis"),
)

SOURCES = (
    _float("x", _SLOT, "pixel", "x of the detected source, brightest first"),
    _float("y", _SLOT, "pixel", "y of the detected source"),
    _float("flux", _SLOT, "electron", "flux in the segment of the source"),
    *(_float(name, _SLOT, unit, sentence) for name, unit, sentence in _SHAPE_VARIABLES),
)

STACK = (
    Variable("image", _PIXEL, "float32", "electron pixel-1", "mean of the aligned, sky-subtracted frames"),
    Variable("coverage", _PIXEL, "uint32", "1", "number of frames that contribute to the pixel", 0),
)

#: What the stack of a night has beside that where its frames show such pixels.
BAD_PIXELS = (
    Variable("bad_pixel", ("bad",), "int64", "1", "pixels hot or dark all night: place in the flattened frame", -1),
)

_ALIGNMENT = ("alignment_source",)
REFERENCE = (
    *STACK,
    _float("alignment_x", _ALIGNMENT, "pixel", "x of the sources that frames are aligned to"),
    _float("alignment_y", _ALIGNMENT, "pixel", "y of the sources that frames are aligned to"),
    _float("alignment_flux", _ALIGNMENT, "electron", "flux of the sources that frames are aligned to"),
)

CATALOG = (
    _count("source_id", _SOURCE, "number of the source, brightest first, from 1"),
    _float("x", _SOURCE, "pixel", "x on the reference frame"),
    _float("y", _SOURCE, "pixel", "y on the reference frame"),
    _float("flux", _SOURCE, "electron", "flux in the segment of the source on the stack"),
    _float("fwhm", _SOURCE, "pixel", "full width at half maximum on the stack"),
    *(_float(name, _SOURCE, unit, sentence) for name, unit, sentence in _SHAPE_VARIABLES),
    Variable(
        *("is_star", _SOURCE, "bool", "1", "whether the source has the form of the field's stars", False),
        attributes={"comment": "widths and apertures come from stars; what is none is a galaxy, a bled column or so"},
    ),
)

#: What a catalogue has beside that of sources that are not measured: fainter than its limit, or in the border.
_NEIGHBOUR = ("neighbour",)
NEIGHBOURS = (
    _float("neighbour_x", _NEIGHBOUR, "pixel", "x on the reference frame of a source that is not measured"),
    _float("neighbour_y", _NEIGHBOUR, "pixel", "y on the reference frame of a source that is not measured"),
    _float("neighbour_flux", _NEIGHBOUR, "electron", "its flux in its segment on the stack"),
)

#: What a catalogue has beside that when the observer placed sources: they follow those that were found.
PLACED = (
    Variable("is_placed", _SOURCE, "bool", "1", "whether the observer placed the source; others were found", False),
)

#: What a catalogue has beside that once it is known where on the sky its camera looked.
SKY = (
    _float("ra", _SOURCE, "deg", "right ascension (ICRS)"),
    _float("dec", _SOURCE, "deg", "declination (ICRS)"),
    _float("ra_err", _SOURCE, "arcsec", "1-sigma error along right ascension; NaN where the header gave the place"),
    _float("dec_err", _SOURCE, "arcsec", "1-sigma error along declination; NaN where the header gave the place"),
    _text("name", _SOURCE, "name that the observer gave, or of the star of the sky catalogue; empty without one"),
    _float("magnitude", ("source", "band"), "mag", "magnitude in the sky catalogue"),
    _text("band", ("band",), "name of the magnitude in the sky catalogue"),
)


def _photometry(cell: tuple[str, ...]) -> tuple[Variable, ...]:
    """Variables of a photometry label; with several radii the measurements have a last dimension ``radius``."""
    return (
        _float("mjd_utc", _FRAME, "d", "Modified Julian Date, UTC, mid-exposure", **_UTC),
        _float("bmjd_tdb", _FRAME, "d", "Barycentric Modified Julian Date, TDB, mid-exposure", **_TDB),
        _count("source_id", _SOURCE, "number of the source in the catalogue"),
        _float("radius", ("radius",), "1", "radius of the aperture, in the unit of the attribute radius_unit"),
        _float("flux", cell, "electron", "flux per exposure: inside the aperture, or total (see the label)"),
        _float("flux_err", cell, "electron", "1-sigma error of the flux"),
        _float("flux_err_sys", cell, "electron", "1-sigma error of the flux that is common to all frames"),
        _float("aperture_correction", cell, "1", "total flux of a star relative to its flux inside the aperture"),
        _float("background", _CELL, "electron pixel-1", "local sky around the source"),
        _float("background_err", _CELL, "electron pixel-1", "1-sigma error of the local sky"),
        _float("profile_chi2", _CELL, "1", "reduced chi-square of the pixels about the star profile of the frame"),
        _float("x", _CELL, "pixel", "x at which the source was measured, on the frame"),
        _float("y", _CELL, "pixel", "y at which the source was measured, on the frame"),
        Variable("flags", cell, "uint32", "1", "quality of the measurement", 0, {}, SourceFlag),
    )


PHOTOMETRY = _photometry(_CELL)
PHOTOMETRY_RADII = _photometry((*_CELL, "radius"))

#: Variables that every photometry label has; a photometer may add others of :data:`PHOTOMETRY`.
ALWAYS_MEASURED = ("flux", "flux_err", "x", "y", "flags")

PSF = (
    _float(
        "coefficient", ("component",), "1", "share of the light in each Gaussian or Moffat function, then in soft rings"
    ),
    _float("radius", ("ring",), "1", "elliptical radius in units of the sigma of the frame's stars"),
    _float("profile", ("ring",), "1", "fitted light per unit of area (sigma squared); the total light is 1"),
    _float("measured", ("ring",), "1", "mean measured light per unit of area, in the same unit"),
    _float("measured_err", ("ring",), "1", "1-sigma error of the measured light"),
)

QUALITY = (
    _float("transparency", _FRAME, "1", "common factor of the fluxes of the sources; the median of the night is 1"),
    _float("transparency_err", _FRAME, "1", "1-sigma error of the transparency"),
    _float("clear_transparency", _FRAME, "1", "transparency of a clear sky at the airmass and seeing of the frame"),
    _float("ellipticity", _FRAME, "1", "1 - b / a of the mean moments of the bright sources"),
    _float("airmass", _FRAME, "1", "airmass at mid-exposure, computed from site and position"),
    _float("scintillation", _FRAME, "1", "1-sigma error of a flux by scintillation, relative to the flux"),
    Variable("flags", _FRAME, "uint32", "1", "what the night says about the frame", 0, {}, QualityFlag),
)

CALIBRATION = (
    Variable("bias", _PIXEL, "float32", "adu", "master bias", np.nan, {}),
    Variable("bias_variance", _PIXEL, "float32", "adu2", "variance of the master bias", np.nan, {}),
    Variable("bad_levels", _PIXEL, "bool", "1", "columns whose bias stands out from the others", False, {}),
    Variable("dark", _PIXEL, "float32", "adu s-1", "master dark, as a rate", np.nan, {}),
    Variable("dark_variance", _PIXEL, "float32", "adu2 s-2", "variance of the master dark", np.nan, {}),
    Variable(
        "hot_pixels", _PIXEL, "bool", "1", "pixels whose dark current is far above others, or unstable", False, {}
    ),
    Variable("dark_excess", _PIXEL, "float32", "adu2", "variance of unstable pixels in a dark beyond noise", 0.0, {}),
    Variable("flat", _PIXEL, "float32", "1", "master flat: response of the pixels, 1 on average", np.nan, {}),
    Variable("flat_variance", _PIXEL, "float32", "1", "variance of the master flat", np.nan, {}),
    Variable("fringe", _PIXEL, "float32", "1", "fringes about 0, to be scaled to each frame", np.nan, {}),
    Variable("fringe_variance", _PIXEL, "float32", "1", "variance of the map of fringes", np.nan, {}),
    Variable("bad_responses", _PIXEL, "bool", "1", "pixels whose response is too far from the others", False, {}),
)

#: What light curves have beside that where the observer placed sources; computed when it is read.
UPPER_LIMIT = _float(
    "upper_limit",
    _CELL,
    "electron",
    "upper limit of the flux, where it is below 3 times its error: the flux, or 0 if that is negative, and 3 errors",
)

DIFFERENTIAL = (
    _float("mjd_utc", _FRAME, "d", "time of mid-exposure", **_UTC),
    _float("bmjd_tdb", _FRAME, "d", "barycentric time of mid-exposure", **_TDB),
    _text("night", _FRAME, "night"),
    _float("relative_flux", _FRAME, "1", "flux of the target divided by that of the comparisons"),
    _float("relative_flux_err", _FRAME, "1", "1-sigma error of the relative flux"),
    Variable("flags", _FRAME, "uint32", "1", "what happened to target and comparisons", 0, {}, SourceFlag),
    _float("exposure_time", _FRAME, "s", "exposure time"),
    _float("airmass", _FRAME, "1", "airmass at mid-exposure"),
    _float("fwhm", _FRAME, "pixel", "median full width at half maximum of the bright sources"),
    _float("background", _FRAME, "electron pixel-1", "sky background: median of the mesh"),
    _float("transparency", _FRAME, "1", "common factor of the fluxes of the sources; the median of the night is 1"),
    _float("ellipticity", _FRAME, "1", "1 - b / a of the mean moments of the bright sources"),
    _float("x", _FRAME, "pixel", "x of the target on the frame"),
    _float("y", _FRAME, "pixel", "y of the target on the frame"),
    _float("magnitude", _FRAME, "mag", "magnitude in the band of the attribute magnitude_band; NaN below the limit"),
    _float("magnitude_err", _FRAME, "mag", "1-sigma error of the magnitude, with that of the zero point"),
    _float("magnitude_err_sys", _FRAME, "mag", "1-sigma error of the zero point of the night"),
    _float("magnitude_limit", _FRAME, "mag", "upper limit of the brightness"),
)

#: Fit of a shape to one or several differential light curves, kept with each of them.
_POINT = ("point",)
FIT = (
    _text("parameter", ("parameter",), "name of the parameter"),
    _text("unit", ("parameter",), "unit of the parameter"),
    _float("value", ("parameter",), "1", "median of the posterior, in the unit of the parameter"),
    _float("error_minus", ("parameter",), "1", "from the 16th percentile of the posterior to the median"),
    _float("error_plus", ("parameter",), "1", "from the median of the posterior to the 84th percentile"),
    _float("samples", ("sample", "parameter"), "1", "samples of the posterior"),
    _float("bjd", _POINT, "d", "Barycentric Julian Date, TDB, mid-exposure"),
    _text("key", _POINT, "camera key"),
    _text("night", _POINT, "night"),
    _float("relative_flux", _POINT, "1", "flux of the target divided by that of the comparisons and by the baseline"),
    _float("relative_flux_err", _POINT, "1", "1-sigma error of the flux with excess scatter and red noise"),
    _float("model", _POINT, "1", "flux of the fitted shape, 1 outside"),
    _float("baseline", _POINT, "1", "fitted baseline, in the unit of the differential light curve"),
    Variable("is_fitted", _POINT, "bool", "1", "whether the frame was fitted: outliers were not", False),
)

_ENTRY = ("entry",)
SET_ASIDE = (
    _text("file", _ENTRY, "path of a file that could not be used at all"),
    _text("reason", _ENTRY, "why it was set aside"),
)

_MARK = ("mark",)

#: What observers say; a mark covers the frames of a span of time, or without one a source as a comparison.
MARKS = (
    _count("number", _MARK, "number of the mark"),
    _text("kind", _MARK, "cloud, junk or keep; or transform, of a frame that could not be aligned"),
    _text("key", _MARK, "camera key"),
    _count("source_id", _MARK, "number of the source in the catalogue; 0 for all sources"),
    _text("label", _MARK, "photometry label; empty for all"),
    _float("mjd_start", _MARK, "d", "Modified Julian Date, UTC, mid-exposure of the first frame", **_UTC),
    _float("mjd_end", _MARK, "d", "Modified Julian Date, UTC, mid-exposure of the last frame", **_UTC),
    _text("who", _MARK, "who says so"),
    _text("when", _MARK, "when it was said, UTC"),
    _text("why", _MARK, "the reason"),
    _text("transform", _MARK, "JSON: transform of the reference to the frame, its rms and number of pairs; or empty"),
    _text("undone_by", _MARK, "who took it back; empty when it holds"),
    _text("undone_when", _MARK, "when it was taken back, UTC"),
)

#: What each kind of group holds.
GROUPS: dict[str, tuple[Variable, ...]] = {
    "frames": MANIFEST + FRAMES,
    "background": BACKGROUND,
    "sources": SOURCES,
    "stack": STACK + BAD_PIXELS,
    "reference": REFERENCE,
    "catalog": CATALOG + NEIGHBOURS + PLACED + SKY,
    "photometry": PHOTOMETRY,
    "photometry_radii": PHOTOMETRY_RADII,
    "psf": PSF,
    "quality": QUALITY,
    "calibration": CALIBRATION,
    "differential": DIFFERENTIAL,
    "fit": FIT,
    "set_aside": SET_ASIDE,
    "marks": MARKS,
}

#: Variables that xarray should show as coordinates.
COORDINATES: dict[str, tuple[str, ...]] = {
    "frames": ("mjd_utc", "bmjd_tdb"),
    "photometry": ("mjd_utc", "bmjd_tdb", "source_id"),
    "photometry_radii": ("mjd_utc", "bmjd_tdb", "source_id", "radius"),
    "catalog": ("source_id",),
}


def added_after(version: str, kind: str) -> list[str]:
    """Variables of a group that versions later than the given one added."""
    return [name for added, groups in ADDED.items() if added > version for name in groups.get(kind, ())]


def variable(group: str, name: str) -> Variable:
    """Look a variable up.

    Raises
    ------
    KeyError
        When the group or the variable is not part of the schema.
    """
    for entry in GROUPS[group]:
        if entry.name == name:
            return entry
    raise KeyError(f"{name!r} is not a variable of {group!r}: {[entry.name for entry in GROUPS[group]]}")


def validate(group: str, arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """Check names and shapes of ``arrays`` before they are written.

    Parameters
    ----------
    group : str
        Kind of group, a key of :data:`GROUPS`.
    arrays : dict of ndarray
        Arrays by variable name.
    sizes : dict of int
        Length of each dimension.

    Raises
    ------
    KeyError
        For a name that is not in the schema.
    ValueError
        For an array of the wrong shape.
    """
    for name, values in arrays.items():
        expected = tuple(sizes[dim] for dim in variable(group, name).dims)
        if np.shape(values) != expected:
            dims = ", ".join(variable(group, name).dims)
            raise ValueError(f"{group}/{name} must have shape ({dims}) = {expected}, got {np.shape(values)}")
