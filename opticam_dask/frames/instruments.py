"""Instruments: what the header of a frame means, where the telescope stands, which cameras there are."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from opticam_dask.frames.definitions.entries import wrong_types, wrong_values
from opticam_dask.frames.fits.cards import Cards
from opticam_dask.frames.fits.shared_cards import SharedCards
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.cameras import camera_of, filter_of
from opticam_dask.frames.headers.equinoxes import to_icrs
from opticam_dask.frames.headers.exposures import binning_of, dark_current_of, exposure_time_of, kind_of, tell_of_sums
from opticam_dask.frames.headers.gains import gain_of, level_of, read_noise_of
from opticam_dask.frames.headers.places import position_of, site_of
from opticam_dask.frames.headers.times import mid_exposure_of
from opticam_dask.frames.headers.values import HeaderValues, Keyword
from opticam_dask.kernels.series.timing import TIME_SCALES
from opticam_dask.locations import write_text
from opticam_dask.text import json_by_hand, read_by_hand

TEMPLATE_NAME = "instrument_template.json"

#: Airmass at the horizon; what is larger (99) stands for none.
_HIGHEST_AIRMASS = 40.0


def _entry(description: str, *, is_later: bool = False, **kwargs: Any) -> Any:
    """Declare one entry of an instrument, with the sentence that the JSON template shows beside it.

    ``is_later``: stores of before the entry was there go on, as long as it has its default.
    """
    return field(metadata={"description": description, "is_later": is_later}, **kwargs)


class _Lasting(NamedTuple):
    """What does not change from frame to frame: entries of a `FrameHeader`, and what is wrong with them."""

    found: dict[str, Any]
    first_problems: tuple[str, ...]  # told before those of the exposure time
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FrameHeader:
    """Contents of one header in the units of the reduction; NaN where it has no value.

    Attributes
    ----------
    camera, filter, key : str
        ``key`` is ``camera:filter``; empty when the camera is not known.
    binning : int
        Detector pixels per image pixel along each axis (0 when unknown).
    gain, dark_current, exposure_time : float
        Electrons per ADU, electrons per pixel and second, seconds.
    mjd_utc : float
        Middle of the exposure.
    ra, dec : float
        Right ascension and declination of the pointing, ICRS, degrees.
    airmass, read_noise, saturation, linearity_limit, pixel_scale : float
        Read noise in electrons, saturation and end of the linear range in ADU, arcseconds per image pixel (binning
        included).
    longitude, latitude, height : float
        Place of the telescope: degrees east and north, metres.
    kind : {"light", "bias", "dark", "flat", "fringe", "focus", "acquisition", "lamp", "spectrum"}
        What the frame was taken for; light where the header does not say, and ``kind_source`` is empty then.
    kind_source, time_reference : str
        Keyword that says so; heliocentre or barycentre, where ``mjd_utc`` is the time of, or empty for the telescope.
    time_offset : float
        Seconds from the time that the header tells to ``mjd_utc``.
    is_time_suspect : bool
        Whether the header says that its time is not to be trusted.
    problems : tuple of str
        Why the frame cannot be used; empty for a good frame.
    warnings : tuple of str
        What is missing but can be done without.
    """

    camera: str
    filter: str
    key: str
    binning: int
    gain: float
    dark_current: float
    exposure_time: float
    mjd_utc: float
    ra: float
    dec: float
    airmass: float
    read_noise: float
    saturation: float
    linearity_limit: float
    pixel_scale: float
    longitude: float
    latitude: float
    height: float
    kind: str = "light"
    kind_source: str = ""
    time_reference: str = ""
    time_offset: float = 0.0
    is_time_suspect: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """Cameras of one telescope, and how their headers are to be read.

    A ``..._keyword`` is the name of a header keyword or a tuple of names, tried in this order; an empty tuple
    leaves the header out of it. A ``default_...`` serves where the header has no such keyword. Each entry is
    described in the template that `generate_instrument_json_template` writes.

    Raises
    ------
    ValueError
        For entries that contradict each other or have an impossible value.
    """

    name: str = _entry("Name of the instrument.")
    time_keywords: tuple[str | tuple[str, str], ...] = _entry(
        "Ways to the time of a frame, tried in this order. Each is a keyword that holds date and time (ISO 8601), "
        "an MJD or a JD, or a pair of keywords: date, time of day."
    )
    time_marks: Literal["start", "middle", "end"] = _entry(
        "Moment of the exposure that the time marks: start, middle or end."
    )
    # A dict cannot be hashed, so the two tables count for equality only.
    cameras: Mapping[str, tuple[str, ...]] = _entry(
        "Cameras and the filters of each. A single camera takes any filter.", hash=False
    )
    time_scale: str | None = _entry(
        f"Scale of the time: {', '.join(TIME_SCALES)}; null for what TIMESYS of the header says, or else utc.",
        default=None,
    )
    time_reference: Literal["observatory", "heliocentre", "barycentre"] | None = _entry(
        "Where times are given for: observatory, heliocentre (HJD) or barycentre (BJD); null for the observatory, and "
        "keywords such as HJD and BJD are not believed then.",
        default=None,
        is_later=True,
    )
    time_flag_keyword: Keyword = _entry(
        "Keyword that is false where the time of a frame is not to be trusted.", default="GOODTIME", is_later=True
    )
    data_flag_keyword: Keyword = _entry(
        "Keyword that is false where a frame holds no data.", default="DSTATUS", is_later=True
    )
    plane_step_keyword: Keyword = _entry(
        "Keyword of the time from one plane of a cube to the next, s.", default=keywords.PLANE_STEP, is_later=True
    )
    filter_keyword: Keyword = _entry("Keyword of the filter.", default=keywords.FILTER)
    exposure_time_keyword: Keyword = _entry("... of the exposure time, s.", default=keywords.EXPOSURE)
    gain_keyword: Keyword = _entry("... of the gain, electrons per ADU.", default=keywords.GAIN)
    dark_current_keyword: Keyword = _entry("... of the dark current, electrons/pixel/s.", default="DARKCURR")
    binning_keyword: Keyword = _entry("... of the binning: 2x2, '2 2' or 2.", default=keywords.BINNING)
    read_noise_keyword: Keyword = _entry("... of the read noise, electrons.", default=keywords.READ_NOISE)
    saturation_keyword: Keyword = _entry("... of the saturation, ADU.", default=keywords.SATURATION)
    linearity_keyword: Keyword = _entry("... of the level up to which the detector is linear, ADU.", default="LINLIMIT")
    airmass_keyword: Keyword = _entry("... of the airmass.", default=keywords.AIRMASS)
    camera_keyword: Keyword = _entry("... of the camera, where the filter does not tell it.", default=())
    ra_keyword: Keyword = _entry("... of the right ascension; a list goes pair by pair with dec.", default=keywords.RA)
    dec_keyword: Keyword = _entry("... of the declination, degrees.", default=keywords.DEC)
    ra_unit: Literal["hourangle", "deg"] | None = _entry(
        "Unit of right ascensions that are plain numbers: hourangle or deg, or null for what the header shows, or else "
        "deg, as in the FITS standard. 02:05:15 is always in hours.",
        default=None,
    )
    image_type_keyword: Keyword = _entry(
        "... of what a frame was taken for. Light frames are reduced, others set aside.",
        default=keywords.IMAGE_TYPE,
        is_later=True,
    )
    default_filter: str | None = _entry("Filter, where the header has none.", default=None)
    default_gain: float | None = _entry("Gain, where the header has none, electrons per ADU.", default=None)
    default_dark_current: float | None = _entry("Dark current, where the header has none.", default=None)
    default_binning: int | None = _entry("Binning, where the header has none.", default=None)
    default_read_noise: float | None = _entry("Read noise, where the header has none, electrons.", default=None)
    default_saturation: float | None = _entry("Saturation, where the header has none, ADU.", default=None)
    default_linearity: float | None = _entry("Level up to which the detector is linear, ADU.", default=None)
    longitude: float | None = _entry("Longitude of the telescope, degrees east.", default=None)
    latitude: float | None = _entry("Latitude of the telescope, degrees north.", default=None)
    height: float | None = _entry("Height of the telescope above sea level, m; 0 when null.", default=None)
    diameter: float | None = _entry("Diameter of the main mirror, m.", default=None)
    row_time: float = _entry(
        "Seconds from the exposure of a row of the image to that of the next (rolling shutter): the time of a frame is "
        "that of its first row, and sources have that of theirs. 0 when all rows are exposed at once.",
        is_later=True,
        default=0.0,
    )
    scintillation_coefficient: float = _entry(
        "Coefficient of the scintillation at the site, m^(2/3) s^(1/2) (Osborn et al. 2015).", default=1.5
    )
    pixel_scales: Mapping[str, float] = _entry(
        "Arcseconds per unbinned pixel of each camera.", default_factory=dict, hash=False
    )
    source_pixels: int = _entry("Least number of connected unbinned pixels of a source.", default=128)
    extension: int | str | None = _entry(
        "HDU of the image: its number, its EXTNAME, or null for what the file shows.", default=None
    )
    images: Literal["frames", "mosaic", "first"] | None = _entry(
        "What several images of a file are: frames, mosaic (amplifiers or windows of one detector), first (the first "
        "one is the frame); null for what their headers show.",
        default=None,
        is_later=True,
    )
    subtract_overscan: bool = _entry(
        "Whether the level of the overscan (BIASSEC) is subtracted where the image is trimmed.",
        default=True,
        is_later=True,
    )
    use_errors: bool = _entry(
        "Whether the noise of pixels is that of an extension with their errors (ERR, VAR, IVAR, ...).",
        default=True,
        is_later=True,
    )

    def __post_init__(self) -> None:
        """Turn lists (as JSON has them) into tuples, and check the entries."""
        for entry in fields(self):
            if entry.name.endswith(("_keyword", "_keywords")):
                object.__setattr__(self, entry.name, _as_tuples(getattr(self, entry.name)))
        types = {entry.name: str(entry.type) for entry in fields(Instrument)}
        if faults := wrong_types(self.to_dict(), types):
            raise ValueError(f"instrument {self.name!r}: " + "; ".join(faults))
        cameras = {
            str(camera): (filters,) if isinstance(filters, str) else tuple(filters)
            for camera, filters in self.cameras.items()
        }
        scales = {str(camera): float(scale) for camera, scale in self.pixel_scales.items()}
        object.__setattr__(self, "cameras", cameras)
        object.__setattr__(self, "pixel_scales", scales)
        if faults := wrong_values(self):
            raise ValueError(f"instrument {self.name!r}: " + "; ".join(faults))

    def interpret(self, header: Mapping[str, Any]) -> FrameHeader:
        """Read one header.

        Never raises for what a header holds: what makes the frame useless is listed in ``problems``, each with
        the keyword, what was expected and what was found.

        Parameters
        ----------
        header : mapping of str to object
            Keywords and values of one frame.

        Returns
        -------
        FrameHeader
        """
        return self._interpreted(header, self._lasting(header))

    def interpreter(self) -> Callable[[Cards], FrameHeader]:
        """`interpret` for the headers of a run: what does not change from frame to frame is worked out once."""
        lasting = SharedCards(self._lasting)
        return lambda header: self._interpreted(header, lasting(header))

    def _lasting(self, header: Mapping[str, Any]) -> _Lasting:
        """What most frames of a run have in common."""
        values = HeaderValues(header)
        filter_name = filter_of(self, values)
        camera = camera_of(self, filter_name, values) if filter_name else ""
        binning = binning_of(self, values)
        n_first = len(values.problems)
        gain = gain_of(self, values, binning)
        dark_current = dark_current_of(self, values)
        longitude, latitude, height = site_of(self, values)
        kind, kind_source = kind_of(self, values)
        tell_of_sums(values)
        if _is_false(values.find(self.data_flag_keyword)[1]):
            values.problems.append(f"{values.find(self.data_flag_keyword)[0]} says that the frame holds no data")
        found = {
            "camera": camera,
            "filter": filter_name,
            "key": f"{camera}:{filter_name}" if camera else "",
            "binning": binning,
            "gain": gain,
            "dark_current": dark_current,
            "read_noise": read_noise_of(self.read_noise_keyword, self.default_read_noise, gain, values),
            "saturation": level_of(self, self.saturation_keyword, self.default_saturation, gain, values),
            "linearity_limit": level_of(self, self.linearity_keyword, self.default_linearity, gain, values),
            "pixel_scale": self.pixel_scales.get(camera, math.nan) * (binning or math.nan),
            "longitude": longitude,
            "latitude": latitude,
            "height": height,
            "kind": kind,
            "kind_source": kind_source,
            "is_time_suspect": _is_false(values.find(self.time_flag_keyword)[1]),
        }
        return _Lasting(
            found, tuple(values.problems[:n_first]), tuple(values.problems[n_first:]), tuple(values.warnings)
        )

    def _interpreted(self, header: Mapping[str, Any], lasting: _Lasting) -> FrameHeader:
        values = HeaderValues(header)
        values.warnings += lasting.warnings
        values.problems += lasting.first_problems
        for keyword in sorted(getattr(header, "contradicted", ())):
            if keyword in self.keywords:
                values.warn(f"{keyword} stands in the header more than once, with different values: the first is used")
        exposure_time = exposure_time_of(self, values)
        values.problems += lasting.problems
        mjd_utc, time_reference, time_offset = mid_exposure_of(self, exposure_time, values)
        ra, dec = to_icrs(position_of(self, values), mjd_utc, values)
        if exposure_time == 0.0 and lasting.found["kind"] == "light":
            values.warn("the exposure time is 0: times are those of the time stamps")
        return FrameHeader(
            **lasting.found,
            exposure_time=exposure_time,
            mjd_utc=mjd_utc,
            time_reference=time_reference,
            time_offset=time_offset,
            ra=ra,
            dec=dec,
            airmass=values.optional_number(self.airmass_keyword, None, least=1.0, most=_HIGHEST_AIRMASS),
            problems=tuple(values.problems),
            warnings=tuple(values.warnings),
        )

    @cached_property
    def keywords(self) -> frozenset[str]:
        """Keywords that are looked for in a header, in capital letters."""
        entries = [
            getattr(self, entry.name) for entry in fields(self) if entry.name.endswith(("_keyword", "_keywords"))
        ]
        return frozenset(name.upper() for name in flat(entries))

    def to_dict(self) -> dict[str, Any]:
        """Entries by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def to_json(self, path: str | Path) -> None:
        """Write the instrument to a JSON file that `from_json` reads."""
        text = json.dumps(self.to_dict(), indent=4, ensure_ascii=False)
        write_text(Path(path), text + "\n")

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """Make an instrument from a JSON file, or from the dictionary in one.

        Parameters
        ----------
        source : path or mapping
            Names as in `generate_instrument_json_template`; names that start with ``_`` are comments.

        Raises
        ------
        ValueError
            When the file is not JSON, names are unknown or missing, or a value is impossible.
        """
        origin = "instrument definition" if isinstance(source, Mapping) else str(source)
        values = dict(source) if isinstance(source, Mapping) else read_definition(Path(source))
        values = {name: value for name, value in values.items() if not name.startswith("_")}
        known = {entry.name for entry in fields(cls)}
        needed = {e.name for e in fields(cls) if e.default is MISSING and e.default_factory is MISSING}
        unknown, missing = sorted(values.keys() - known), sorted(needed - values.keys())
        faults = [f"unknown names: {', '.join(unknown)}"] * bool(unknown)
        faults += [f"missing names: {', '.join(missing)}"] * bool(missing)
        if faults:
            raise ValueError(f"{origin}: {'; '.join(faults)}. Known names: {', '.join(sorted(known))}.")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class OPTICAM_MX(Instrument):
    """OPTICAM on the 2.1 m telescope at San Pedro Martir, with headers as its MUFFIN software writes them.

    ``UT`` is the start of the exposure. Older data have ``GPSTIME``, a date and time in UTC set by a GPS receiver
    (it is not on the GPS time scale). ``DATE-OBS`` may be the local date, so it serves only where ``UT`` holds no
    date of its own.
    """

    name: str = "OPTICAM_MX"
    time_keywords: tuple[str | tuple[str, str], ...] = ("GPSTIME", "UT", ("DATE-OBS", "UT"))
    time_marks: Literal["start", "middle", "end"] = "start"
    cameras: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"1": ("u", "u'", "g", "g'"), "2": ("r", "r'"), "3": ("i", "i'", "z", "z'")},
        hash=False,
    )
    time_scale: str | None = "utc"
    filter_keyword: Keyword = "FILTER"
    exposure_time_keyword: Keyword = "EXPOSURE"
    gain_keyword: Keyword = "GAIN"
    binning_keyword: Keyword = "BINNING"
    read_noise_keyword: Keyword = "RDNOISE"
    saturation_keyword: Keyword = "SATLEVEL"
    airmass_keyword: Keyword = "AIRMASS"
    ra_keyword: Keyword = "RA"
    dec_keyword: Keyword = "DEC"
    ra_unit: Literal["hourangle", "deg"] | None = "hourangle"
    default_read_noise: float | None = 1.3
    longitude: float | None = -115.463611
    latitude: float | None = 31.044167
    height: float | None = 2790.0
    diameter: float | None = 2.1
    scintillation_coefficient: float = 1.67
    pixel_scales: Mapping[str, float] = field(
        default_factory=lambda: {"1": 0.1397, "2": 0.1406, "3": 0.1661}, hash=False
    )


def generate_instrument_json_template(out_directory: str | Path) -> Path:
    """Write a JSON file with every entry of an instrument and a description of each, to be filled in.

    Parameters
    ----------
    out_directory : path
        Where ``instrument_template.json`` goes; made if needed.

    Returns
    -------
    pathlib.Path
        The file. It is a valid instrument as it stands.

    Raises
    ------
    FileExistsError
        When the file is there already: it may have been filled in.
    """
    example = Instrument(
        name="my instrument", time_keywords=("DATE-OBS",), time_marks="start", cameras={"1": ("g", "r")}
    ).to_dict()
    lines: dict[str, Any] = {}
    for entry in fields(Instrument):
        lines[f"_{entry.name}_description"] = entry.metadata["description"].replace("...", "Keyword")
        lines[entry.name] = example[entry.name]
    path = Path(out_directory) / TEMPLATE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise FileExistsError(errno.EEXIST, "it is there already and may have been filled in", str(path))
    write_text(path, json.dumps(lines, indent=4, ensure_ascii=False) + "\n")
    return path


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def read_definition(path: Path) -> dict[str, Any]:
    """Entries of an instrument from a JSON file.

    Raises
    ------
    ValueError
        When it is no JSON file, or holds no object.
    """
    try:
        values = json_by_hand(read_by_hand(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object with the entries of an instrument")
    return values


def flat(words: Any) -> Iterator[str]:
    """Keywords of an entry, which may be one, or lists in lists of them."""
    if isinstance(words, str):
        yield words
    else:
        for word in words:
            yield from flat(word)


def _is_false(value: Any) -> bool:
    return value is False or (isinstance(value, str) and value.strip().upper() in ("F", "FALSE"))
