"""A definition for an unknown camera, proposed from the headers of its frames."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opticam_dask.frames.guessing.clocks import find_clock
from opticam_dask.frames.guessing.writers import writer_of
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.gains import gain_of
from opticam_dask.frames.headers.places import position_of, site_of
from opticam_dask.frames.headers.values import HeaderValues, as_angle, as_number
from opticam_dask.frames.instruments import Instrument
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.text import shown

#: Keywords that may tell one camera of several from another.
_CAMERAS = (
    "CCD",
    "CAMERA",
    "CAMNAME",
    "CAMID",
    "CAM_ID",
    "CCDNAME",
    "DETECTOR",
    "DETNAM",
    "SERIALN",
    "INSTRUME",
    "EXTNAME",
)
_EXPOSURES = (*keywords.EXPOSURE, "ITIME", "INTTIME", "TEXPTIME", "EXPTIM", "EXP-TIME", "ESO DET WIN1 DIT1")
_FILTERS = (*keywords.FILTER, "FILTER1", "FILTERA", "WFFBAND", "FILTNAM", "FILT", "BAND", "ESO INS FILT1 ID")
#: Arcseconds per pixel as delivered.
_SCALES = ("PIXSCALE", "IM_SCALE", "SECPIX", "SECPIX1", "PIXSCAL1", "SCALE", "PLTSCALE", "CCDSCALE")
#: Arcseconds of a radian.
_ARCSEC = 206264.806
#: A source has the pixels of a disk of this diameter, arcsec.
_SEEING = 2.0
#: Pixels of a source at least: fewer are noise.
_FEWEST = 9
#: Pixels of a source at most: with more, faint stars are lost.
_MOST = 128
_READ_NOISE = (*keywords.READ_NOISE, "READNOISE", "RDNOIS", "ENOISE")
_SIDEREAL = ("LST-OBS", "LST", "ST", "SIDTIME")
_SAME_LONGITUDE = 1.0  # degrees; sidereal times are told to minutes


class _Words(NamedTuple):
    """Words of names and of comments of keywords that may hold a quantity."""

    names: re.Pattern[str]
    comments: re.Pattern[str]


_FILTER_WORDS = _Words(re.compile(r"FILT(?!ER\w*POS)"), re.compile(r"\bfilters?\b", re.IGNORECASE))
_GAIN_WORDS = _Words(
    re.compile(r"^(ELEC|E[-_]?)GAIN$"),
    re.compile(r"\b(e-?|electrons?)\s*(/|per)\s*(adu|dn|counts?)\b", re.IGNORECASE),
)
_SITE_WORDS = _Words(
    re.compile(r"^(TEL|OBS|SITE|GEO|STN)[-_]?(LAT|LON)"), re.compile(r"\b(latitude|longitude)\b", re.IGNORECASE)
)
_OF_GUIDER = re.compile(r"guid(er|ing)|\bA&G\b", re.IGNORECASE)
#: Keywords that are named where nothing was found.
_MOST_HINTS = 4
#: What no header is held against.
_PLAIN = Instrument(name="any", time_keywords=("DATE-OBS",), time_marks="start", cameras={"1": ()})


class Finding(NamedTuple):
    """One quantity of a definition: the keyword it is read from, and what the keyword is taken to mean.

    Attributes
    ----------
    quantity : str
        Such as "gain".
    source : str
        Keyword with the value of the first frame.
    meaning : str
        What it is taken to mean.
    """

    quantity: str
    source: str
    meaning: str


@dataclass
class Guess:
    """Proposed definition of a camera, with what is still missing.

    Attributes
    ----------
    definition : dict
        Entries of an `Instrument`.
    findings : list of Finding
        What each comes from.
    missing : list of str
        What the headers do not say, and which entry of the definition says it.
    writer : str
        Who wrote the headers; empty when not known.
    n_frames : int
        Frames whose headers were read.
    known : str
        Name of a definition that is there already and reads these headers; empty without.
    """

    definition: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    writer: str = ""
    n_frames: int = 0
    known: str = ""
    _taken: Instrument | None = None

    @property
    def instrument(self) -> Instrument:
        """The definition as an instrument."""
        return self._taken or Instrument.from_json(self.definition)

    def take(self, name: str, known: Instrument) -> None:
        """Propose an existing definition; its entries are not missing any more."""
        self.known, self.definition, self._taken = name, known.to_dict(), known
        entries = {entry for entry, value in self.definition.items() if value is not None and value != {}}
        self.missing = [one for one in self.missing if entries.isdisjoint(re.findall(r"\w+", one.partition("(")[2]))]

    def to_json(self) -> str:
        """The definition as the text of a JSON file; what is missing stands in comments."""
        notes = {f"_missing_{number}": sentence for number, sentence in enumerate(self.missing, start=1)}
        found = {f"_{one.quantity.replace(' ', '_')}": f"{one.source}: {one.meaning}" for one in self.findings}
        return json.dumps({**self.definition, **found, **notes}, indent=4, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """The whole proposal for people, one line an entry."""
        told = [f"{self.n_frames} header(s) read, written by {self.writer or 'a program that is not known'}."]
        if self.known:
            default = " (the default)" if self.known == "opticam" else ""
            told.append(f"The definition {self.known} reads them: --instrument {self.known}{default}.")
        width = max((len(one.quantity) for one in self.findings), default=0)
        told += [f"  {one.quantity:{width}s}  {one.source}: {one.meaning}" for one in self.findings]
        told += [f"  missing: {sentence}" for sentence in self.missing]
        return told


def guess_from_headers(headers: Sequence[Mapping[str, Any]]) -> Guess:
    """Propose a definition of a camera from the headers of its frames.

    Parameters
    ----------
    headers : sequence of mapping
        Headers of light frames, at least one; with comments where they have any.

    Raises
    ------
    ValueError
        When there is no header.
    """
    if not headers:
        raise ValueError("expected the header of at least one frame")
    first = headers[0]
    writer = writer_of(first)
    name = " ".join(str(first[key]).strip() for key in ("TELESCOP", "INSTRUME") if str(first.get(key, "")).strip())
    guess = Guess(
        {"name": name or "my instrument"}, writer="" if writer is None else writer.name, n_frames=len(headers)
    )
    _time(guess, headers, find_clock(headers, writer))
    _exposure(guess, first)
    _cameras(guess, headers)
    _binning(guess, first)
    _gain(guess, first)
    _noise(guess, first)
    _position(guess, first)
    _site(guess, first)
    _scale(guess, first)
    _kind(guess, headers)
    return guess


def _found(header: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    return next(((name, header[name]) for name in names if _is_there(header.get(name))), ("", None))


def _is_there(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _hint(header: Mapping[str, Any], words: _Words, *, is_text: bool | None, entry: str) -> str:
    """Keywords that may hold what was not found, by their names and comments, for the end of a sentence."""
    comment = HeaderValues(header).comment
    found = [
        name
        for name, value in header.items()
        if _is_there(value)
        and not isinstance(value, bool)
        and is_text in (None, isinstance(value, str))
        and (words.names.search(name) or words.comments.search(comment(name)))
        and not _OF_GUIDER.search(comment(name))
    ]
    return f"; it may be in {', '.join(found[:_MOST_HINTS])} ({entry})" if found else ""


def _note(guess: Guess, quantity: str, name: str, value: Any, meaning: str) -> None:
    guess.findings.append(Finding(quantity, f"{name} = {shown(value)}" if name else "", meaning))


def _time(guess: Guess, headers: Sequence[Mapping[str, Any]], clock: Any) -> None:
    definition = guess.definition
    if clock is None:
        definition |= {"time_keywords": ("DATE-OBS",), "time_marks": "start"}
        guess.missing.append("the time of the frames: no keyword holds a date and time (time_keywords)")
        return
    definition |= {"time_keywords": clock.ways, "time_marks": clock.marks}
    scale = clock.scale or str(headers[0].get("TIMESYS", "")).strip().lower() or "utc"
    if clock.scale is not None:
        definition["time_scale"] = clock.scale
    if clock.reference is not None:
        definition["time_reference"] = clock.reference
    where = f" at the {clock.reference}" if clock.reference else ""
    why = clock.why or "taken for it"
    guess.findings.append(
        Finding("time", clock.example, f"{clock.marks} of the exposure ({why}), {scale.upper()}{where}")
    )
    if not clock.why:
        guess.missing.append("which moment of the exposure the time marks: taken for its start (time_marks)")


def _exposure(guess: Guess, header: Mapping[str, Any]) -> None:
    name, value = _found(header, _EXPOSURES)
    if not name:
        guess.missing.append("the exposure time: frames cannot be used without it (exposure_time_keyword)")
        return
    unit = keywords.SECONDS.get(name, 1.0)
    comment = HeaderValues(header).comment(name)
    if name not in keywords.SECONDS:
        unit = next((seconds for words, seconds in keywords.SECONDS_IN_COMMENT if words.search(comment)), 1.0)
    guess.definition["exposure_time_keyword"] = name
    _note(guess, "exposure", name, value, {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds"}[unit])


def _cameras(guess: Guess, headers: Sequence[Mapping[str, Any]]) -> None:
    """Cameras and filters: one camera with all filters, unless a keyword differs from camera to camera."""
    definition, first = guess.definition, headers[0]
    filter_name, _ = _found(first, _FILTERS)
    seen = [str(header.get(filter_name, "")).strip() if filter_name else "" for header in headers]
    filters = sorted({one for one in seen if one})
    if filters:
        definition["filter_keyword"] = filter_name
        _note(guess, "filter", filter_name, ", ".join(filters), "name of the filter")
    else:
        definition["default_filter"] = "none"
        hint = _hint(first, _FILTER_WORDS, is_text=True, entry="filter_keyword")
        guess.missing.append(f'the filter: taken as "none" (default_filter){hint}')
    for name in _CAMERAS:
        values = [str(header.get(name, "")).strip() for header in headers]
        # extensions that are exposures are numbered through, those that are cameras come again in every file
        is_told = all(values) and (name != "EXTNAME" or min(map(values.count, values)) > 1)
        if len(set(values)) > 1 and is_told:
            if not filters:
                seen, definition["filter_keyword"] = values, []
                definition.pop("default_filter")
                guess.missing[-1] = f"the filters: named as the cameras in {name} (cameras)"
            cameras = {
                one: sorted({f for f, v in zip(seen, values, strict=True) if v == one and f}) for one in set(values)
            }
            definition |= {"cameras": dict(sorted(cameras.items())), "camera_keyword": name}
            _note(guess, "camera", name, ", ".join(sorted(cameras)), f"{len(cameras)} cameras")
            return
    definition["cameras"] = {"1": filters or ["none"]}


def _binning(guess: Guess, header: Mapping[str, Any]) -> None:
    name, value = _found(header, (*keywords.BINNING, "HBIN", "CCDXBIN"))
    if name:
        guess.definition["binning_keyword"] = name
        _note(guess, "binning", name, value, "detector pixels per pixel")
    else:
        guess.definition["default_binning"] = 1
        guess.missing.append("the binning: taken as 1 (default_binning)")


def _gain(guess: Guess, header: Mapping[str, Any]) -> None:
    values = HeaderValues(header)
    gain = gain_of(_PLAIN, values, 1)
    is_doubtful = any("hardly possible" in told or "setting" in told for told in values.warnings)
    if gain > 0.0 and not is_doubtful:
        name, value = _found(header, (*keywords.GAIN, *keywords.ADU_PER_ELECTRON))
        guess.definition["gain_keyword"] = name if name in keywords.GAIN else keywords.GAIN
        _note(guess, "gain", name, value, f"{gain:g} electrons per ADU")
        return
    told = [sentence.removeprefix("gain: ") for sentence in (*values.problems, *values.warnings)]
    reasons = [sentence.partition(", and the instrument has")[0] for sentence in told if "is missing" not in sentence]
    hint = _hint(header, _GAIN_WORDS, is_text=False, entry="gain_keyword")
    why = "; ".join(reasons) or "no keyword holds it"
    guess.missing.append(f"the gain in electrons per ADU (default_gain): {why}{hint}")


def _noise(guess: Guess, header: Mapping[str, Any]) -> None:
    definition = guess.definition
    for quantity, names, entry, unit in (
        ("read noise", _READ_NOISE, "read_noise", "electrons"),
        ("saturation", (*keywords.SATURATION, "SATURAT", "MAXADU"), "saturation", "ADU"),
        ("dark current", keywords.DARK_CURRENT, "dark_current", "electrons per pixel and second"),
        ("airmass", keywords.AIRMASS, "airmass", ""),
    ):
        name, value = _found(header, names)
        if name and math.isfinite(as_number(value)):
            definition[f"{entry}_keyword"] = name
            _note(guess, quantity, name, value, unit or "airmass")
        elif entry == "dark_current":
            definition["default_dark_current"] = 0.0
            guess.missing.append("the dark current: taken as 0 (default_dark_current)")
        elif entry in ("read_noise", "saturation"):
            guess.missing.append(f"the {quantity} in {unit} (default_{entry})")


def _position(guess: Guess, header: Mapping[str, Any]) -> None:
    values = HeaderValues(header)
    ra, _ = position_of(_PLAIN, values)
    if not math.isfinite(ra):
        guess.missing.append(
            "the position of the target: give --target-coord RA DEC, or there are no barycentric times"
        )
        return
    for ra_name, dec_name in zip(keywords.RA, keywords.DEC, strict=True):
        if _is_there(header.get(ra_name)) and _is_there(header.get(dec_name)):
            break
    as_read = as_angle(header[ra_name])
    is_text = math.isnan(as_number(header[ra_name]))
    unit = "hours" if abs(as_read % 360.0 - ra) > 1e-6 else "degrees"
    guess.definition |= {"ra_keyword": ra_name, "dec_keyword": dec_name}
    if not is_text and unit == "degrees" and ra_name not in keywords.IN_DEGREES:
        guess.definition["ra_unit"] = "deg"
    _note(guess, "position", f"{ra_name}, {dec_name}", f"{header[ra_name]}, {header[dec_name]}", f"{unit}, degrees")
    guess.missing += [f"the unit of {ra_name}: {one}" for one in values.warnings if "does not say its unit" in one]


def _site(guess: Guess, header: Mapping[str, Any]) -> None:
    longitude, latitude, height = site_of(_PLAIN, HeaderValues(header))
    if not math.isfinite(longitude):
        hint = _hint(header, _SITE_WORDS, is_text=None, entry="longitude, latitude, height")
        guess.missing.append(
            f"the site of the telescope (longitude, latitude, height): no barycentric times without it{hint}"
        )
        return
    names = next((pair for *pair, _ in keywords.SITES if all(_is_there(header.get(one)) for one in pair)), ["OBSGEO-X"])
    meaning = f"{abs(latitude):g} degrees {'north' if latitude >= 0 else 'south'}"
    turned = _by_sidereal_time(guess, header, longitude)
    if turned is not None and turned != longitude:
        longitude = turned
        why = ", by sidereal time or hour angle"
    else:
        why = ", by sidereal time or hour angle as well" if turned is not None else ""
    meaning += f", {abs(longitude):g} degrees {'east' if longitude >= 0 else 'west'}{why}"
    guess.definition |= {"longitude": longitude, "latitude": latitude}
    if math.isfinite(height):
        guess.definition["height"] = height
        meaning += f", {height:g} m"
    else:
        guess.missing.append("the height of the telescope: taken as 0 m (height)")
    _note(guess, "site", ", ".join(names), ", ".join(str(header[one]) for one in names), meaning)


def _by_sidereal_time(guess: Guess, header: Mapping[str, Any], longitude: float) -> float | None:
    """The longitude, or that to the other side, which fits the local sidereal time of a header; None without one."""
    frame = guess.instrument.interpret(header)
    sidereal = [15.0 * as_angle(header[name]) for name in _SIDEREAL if _is_there(header.get(name))]
    hour_angle = header.get("HA")
    if _is_there(hour_angle) and math.isfinite(frame.ra):
        is_text = math.isnan(as_number(hour_angle))
        sidereal += [frame.ra + as_angle(hour_angle) * unit for unit in ((15.0,) if is_text else (1.0, 15.0))]
    if not math.isfinite(frame.mjd_utc):
        return None
    start = frame.mjd_utc - 0.5 * frame.exposure_time / SECONDS_PER_DAY
    # Greenwich mean sidereal time of the date (Meeus, Astronomical Algorithms, 1998, eq. 12.4, first terms)
    greenwich = (280.46061837 + 360.98564736629 * (start - 51544.5)) % 360.0
    for side in (longitude, -longitude):
        away = [(greenwich + side - angle + 180.0) % 360.0 - 180.0 for angle in sidereal]
        if any(abs(one) < _SAME_LONGITUDE for one in away):
            return side
    return None


def _scale(guess: Guess, header: Mapping[str, Any]) -> None:
    """Arcseconds per unbinned pixel, and what a source must have of pixels."""
    name, value = _found(header, _SCALES)
    binning = max(1.0, _first_number(header.get(_found(header, keywords.BINNING)[0])))
    scale, source = as_number(value) / binning, f"{name} = {value}"
    pixel, focal = as_number(header.get("XPIXSZ")), as_number(header.get("FOCALLEN"))
    if not scale > 0.0 and pixel > 0.0 and focal > 0.0:
        # micrometres of a pixel as delivered, and millimetres [MaxIm, N.I.N.A.]
        scale, source = _ARCSEC * pixel * 1e-3 / focal / binning, f"XPIXSZ = {pixel:g}, FOCALLEN = {focal:g}"
    if scale > 0.0:
        guess.definition["pixel_scales"] = dict.fromkeys(guess.definition["cameras"], round(scale, 4))
        guess.findings.append(Finding("pixel scale", source, f"{scale:.4g} arcsec per unbinned pixel"))
        disk = round(math.pi / 4 * (_SEEING / scale) ** 2)
        guess.definition["source_pixels"] = min(max(disk, _FEWEST), _MOST)
    else:
        guess.definition["source_pixels"] = _FEWEST
        guess.missing.append("the pixel scale (pixel_scales), and how large a source is (source_pixels)")
    aperture = as_number(header.get("APTDIA"))
    if aperture > 0.0:
        guess.definition["diameter"] = aperture / 1e3
        _note(guess, "diameter", "APTDIA", aperture, "of the main mirror, mm")
    else:
        guess.missing.append("the diameter of the telescope (diameter): no scintillation without it")


def _first_number(value: Any) -> float:
    found = re.search(r"\d+", str(value))
    return float(found[0]) if found else 1.0


def _kind(guess: Guess, headers: Sequence[Mapping[str, Any]]) -> None:
    name, value = _found(headers[0], keywords.IMAGE_TYPE)
    if name and not any(letter.isdigit() for letter in str(value)):  # FRAME of Andor cameras is a time
        _note(guess, "kind", name, value, "what the frame was taken for")
