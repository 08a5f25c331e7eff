"""A report as one HTML page.

Whatever comes from headers and files goes through the escaping of the template, or into a block of JSON that is no
script; of scripts only the one whose hash the page names can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined

from opticam_dask import schema
from opticam_dask.display.report import pictures
from opticam_dask.display.report.payload import panels, payload
from opticam_dask.display.report.records import Field, FieldSky, RelativeCurve, Report, Statistics
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.store.camera import group_name
from opticam_dask.text import printable

#: Light curves that the page opens with, at most; all of them are further down.
_TARGETS = 6
#: Rows of a catalogue in the page.
_ROWS = 1000
#: Circles of a finding chart at most.
_CIRCLES = 300
#: Stamps of the brightest sources of a camera.
_STAMPS = 12
#: Stamps reach this many FWHM to each side of their source.
_STAMP_REACH = 3.0
#: Columns of a catalogue that are listed.
_COLUMNS = tuple(entry.name for entry in schema.CATALOG)
#: What stands for a number that is not known.
_UNKNOWN = "\N{EN DASH}"


def render(report: Report) -> str:
    """The page of a report; the same report gives the same text."""
    texts = {name: _resource(name) for name in ("report.css", "report.js")}
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_one_line,
    )
    environment.filters |= {
        "number": number, "range": _range, "percent": _percent, "mjd": _mjd, "count": _count, "href": _href,
        "name": group_name, "period": _period_text,
    }  # fmt: skip
    fields = [_field_view(report, field) for field in report.fields]
    return environment.get_template("report.html").render(
        report=report,
        fields=fields,
        panels=panels(report),
        targets=_target_views(report),
        relative=[_relative_view(curve) for curve in report.relative],
        statistics=report.statistics,
        records=_provenance_rows(report),
        provenance_text=_Lines(json.dumps(report.provenance, indent=2)),
        totals=_totals(report),
        points=_n_points(report),
        style=_Trusted(texts["report.css"]),
        script=_Trusted(texts["report.js"]),
        style_hash=_hash(texts["report.css"]),
        script_hash=_hash(texts["report.js"]),
        data=_Trusted(_script_json(payload(report))),
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class _Lines(str):
    """Text of several lines, which is escaped and keeps them."""


def _one_line(value: Any) -> Any:
    """A text with what cannot be printed made visible: a name of a file may hold anything."""
    return printable(value) if type(value) is str else value


class _Trusted(str):
    """Text of this package that goes into the page as it is."""

    def __html__(self) -> str:
        return str(self)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _script_json(payload: Any) -> str:
    """JSON that cannot end the element it stands in, whatever texts are in it."""
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


# ---------------------------------------------------------------- numbers for people


def number(value: float, digits: int = 4) -> str:
    """A number with a given count of significant digits; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    size = abs(value)
    if 10.0**digits <= size < 1e6:
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def _count(value: int) -> str:
    return f"{value:,}"


def _range(values: tuple[float, float], digits: int = 4) -> str:
    low, high = (number(value, digits) for value in values)
    return low if low == high else f"{low} to {high}"


def _period_text(days: float) -> str:
    units = (("d", 1.0), ("h", 24.0), ("min", 1440.0), ("s", SECONDS_PER_DAY))
    unit, size = next((one for one in units if days * one[1] >= 1), units[-1])
    return f"{days * size:.6g} {unit}"


def _percent(value: float) -> str:
    return _UNKNOWN if not math.isfinite(value) else f"{100 * value:.3g}"


def _mjd(value: float) -> str:
    return _UNKNOWN if not math.isfinite(value) else f"{value:.5f}"


def _href(path: str) -> str:
    # a name such as javascript:... must not be read as a scheme
    return "./" + quote(path, errors="surrogateescape")  # whatever bytes the name of the file has


# ---------------------------------------------------------------- what the template shows


def _totals(report: Report) -> dict[str, Any]:
    return {
        "n_frames": sum(night.n_frames for night in report.nights),
        "n_done": sum(night.n_done for night in report.nights),
        "n_usable": sum(night.n_usable for night in report.nights),
        "n_set_aside": sum(night.n_set_aside for night in report.nights),
        "nights": sorted({night.night.split(".")[0] for night in report.nights}),
        "n_sources": [(field.key, len(field.catalog["source_id"])) for field in report.fields],
        "labels": sorted({entry.label for entry in report.statistics}),
    }


def _n_points(report: Report) -> dict[str, int]:
    """How many numbers of frames are in the page, and of how many frames each point is at most."""
    conditions = [night.clock for night in report.conditions]
    curves = [clock for one in report.curves for clock, _ in one.nights]
    relative = [clock for one in report.relative for clock, _ in one.nights]
    return {
        "conditions": sum(len(night.clock.ticks) * len(night.columns) for night in report.conditions),
        "conditions_per_point": max([clock.per_point for clock in conditions], default=1),
        "curves": sum(len(clock.ticks) * len(one.sources) for one in report.curves for clock, _ in one.nights),
        "curves_per_point": max([clock.per_point for clock in curves], default=1),
        "relative": sum(len(clock.ticks) for clock in relative),
        "relative_per_point": max([clock.per_point for clock in relative], default=1),
    }


def _provenance_rows(report: Report) -> dict[str, Any]:
    """Parameters and versions as rows of tables."""
    record = report.provenance
    versions = record["versions"]
    return {
        "parameters": _rows(record["parameters"], without=("class", "instrument")),
        "instrument": _rows(record["instrument"]) if isinstance(record["instrument"], Mapping) else [],
        "photometry": _photometry_rows(record),
        "versions": [
            ("opticam_dask", str(versions["opticam_dask_version"])),
            ("Python", str(versions["python"])),
            *((str(name), str(version)) for name, version in sorted(versions["packages"].items())),
        ],
        "other_versions": _other_versions(record),
    }


def _rows(record: Mapping[str, Any], without: Sequence[str] = ()) -> list[tuple[str, str]]:
    return [(str(name), _value(value)) for name, value in record.items() if value is not None and name not in without]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 400 else f"{text[:397]}..."


def _photometry_rows(record: Mapping[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Parameters of each photometry label, once where all keys and nights agree."""
    found: dict[tuple[str, str], tuple[list[str], list[tuple[str, str]]]] = {}
    for key, nights in record["nights"].items():
        for night, part in nights.items():
            for label, entry in part["photometry"].items():
                rows = _rows(entry["parameters"])
                found.setdefault((label, str(rows)), ([], rows))[0].append(f"{key} {night}")
    labels = [label for label, _ in found]
    return [
        (label, ", ".join(where) if labels.count(label) > 1 else "", rows)
        for (label, _), (where, rows) in found.items()
    ]


def _other_versions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nights that were reduced with other versions than those the store was made with."""
    usual = record["versions"]
    found = []
    for key, nights in record["nights"].items():
        for night, part in nights.items():
            for what, versions in [("frames", part["versions"])] + [
                (f"photometry {label}", entry["versions"]) for label, entry in part["photometry"].items()
            ]:
                differs = _differences(usual, versions)
                if versions and differs:
                    found.append((f"{key} {night}, {what}", differs))
    return found


def _differences(usual: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    mine = {"opticam_dask": versions.get("opticam_dask_version"), "Python": versions.get("python")}
    theirs = {"opticam_dask": usual["opticam_dask_version"], "Python": usual["python"]}
    mine |= versions.get("packages", {})
    theirs |= usual["packages"]
    return ", ".join(
        f"{name} {value}" for name, value in mine.items() if value is not None and theirs.get(name) != value
    )


# ---------------------------------------------------------------- fields


def _field_view(report: Report, field: Field) -> dict[str, Any]:
    """Chart, circles, stamps and rows of the catalogue of a key."""
    catalog = field.catalog
    ny, nx = field.image.shape
    named = _named_sources(report, field.key)
    radius = max(2.0 * field.fwhm, 0.012 * max(nx, ny))
    n_sources = len(catalog["source_id"])
    names = _names(field)
    # what the observer placed follows the others in the catalogue
    order = [row for row in range(n_sources) if row < _CIRCLES or int(catalog["source_id"][row]) in field.placed]
    circles = [
        {
            "id": int(catalog["source_id"][row]),
            "x": round(float(catalog["x"][row]), 2),
            "y": round(ny - 1 - float(catalog["y"][row]), 2),
            "role": named.get(int(catalog["source_id"][row]), ""),
            "name": names[row],
            "has_label": int(catalog["source_id"][row]) in field.placed,
            "place": _place(field, row),
        }
        for row in order
        if np.isfinite(catalog["x"][row]) and np.isfinite(catalog["y"][row])
    ]
    scale = report.pixel_scales.get(field.key) if field.sky is None else field.sky.scale
    return {
        "key": field.key,
        "nx": nx,
        "ny": ny,
        "fwhm": field.fwhm,
        "fwhm_arcsec": None if scale is None else field.fwhm * scale,
        "bar": None if scale is None else _scale_bar(nx, scale),
        "arrows": [] if field.sky is None else _arrows(field.sky, nx, ny),
        "averaged": -(-max(nx, ny) // pictures.LONGEST_SIDE),
        "reference_file": field.reference_file,
        "reference_night": field.reference_night,
        "coverage": field.largest_coverage,
        "picture": "data:image/jpeg;base64," + base64.b64encode(pictures.chart(field.image)).decode(),
        "radius": round(radius, 2),
        "circles": circles,
        "n_sources": n_sources,
        "warnings": list(field.warnings),
        "stamps": _stamps(field, named),
        "rows": _catalogue_rows(report, field, named),
    }


def _names(field: Field) -> list[str]:
    """Names of the sources of a catalogue, by the observer or a sky catalogue; empty where there is none."""
    return [str(name) for name in field.catalog.get("name", [""] * len(field.catalog["source_id"]))]


def _place(field: Field, row: int) -> str:
    """Right ascension and declination of a source, in words; empty where they are not known."""
    if field.sky is None or not np.isfinite(field.catalog["ra"][row]):
        return ""
    return f"RA {field.catalog['ra'][row]:.6f}°, Dec {field.catalog['dec'][row]:+.6f}°"


def _arrows(sky: FieldSky, nx: int, ny: int) -> list[dict[str, Any]]:
    """Arrows to the north and to the east from a lower corner of the image, y downwards as in SVG."""
    length = 0.09 * min(nx, ny)
    found = []
    for letter, (x, y) in (("N", sky.north), ("E", sky.east)):
        side = 0.22 * length
        tip = np.array([x, -y]) * length
        back, across = tip * (1.0 - side / length), np.array([y, x]) * side / 2.0
        head = " ".join(f"{px:.2f},{py:.2f}" for px, py in (tip, back + across, back - across))
        end, text = np.round(back, 2).tolist(), np.round(1.3 * tip, 2).tolist()
        found.append({"letter": letter, "end": end, "head": head, "text": text})
    return found


def _named_sources(report: Report, key: str) -> dict[int, str]:
    """What each source is in the differential light curves of a key: target goes before comparison."""
    named: dict[int, str] = {}
    for curve in report.relative:
        if curve.key == key:
            named |= {number: "comparison" for number in curve.comparisons if number not in named}
    return named | {curve.target: "target" for curve in report.relative if curve.key == key}


def _scale_bar(nx: int, scale: float) -> dict[str, Any]:
    """Bar of a round number of arcseconds, about a fifth of the image wide."""
    wanted = 0.2 * nx * scale
    step = 10.0 ** math.floor(math.log10(wanted))
    length = max(value * step for value in (1, 2, 3, 5) if value * step <= wanted)
    text = f"{length / 60:g} arcmin" if length >= 60 and length % 60 == 0 else f"{length:g} arcsec"
    return {"length": round(length / scale, 2), "text": text}


def _stamps(field: Field, named: Mapping[int, str]) -> list[dict[str, Any]]:
    """Cut-outs of targets and of the brightest sources."""
    numbers = field.catalog["source_id"]
    first = [row for row in range(len(numbers)) if named.get(int(numbers[row])) == "target"]
    rows = [*first, *(row for row in range(len(numbers)) if row not in first)][:_STAMPS]
    half = int(min(24, max(8, math.ceil(_STAMP_REACH * field.fwhm))))
    found = []
    for row in rows:
        x, y = float(field.catalog["x"][row]), float(field.catalog["y"][row])
        if np.isfinite(x) and np.isfinite(y):
            picture = base64.b64encode(pictures.stamp(field.image, x, y, half)).decode()
            found.append(
                {
                    "id": int(numbers[row]),
                    "role": named.get(int(numbers[row]), ""),
                    "picture": f"data:image/png;base64,{picture}",
                    "size": 2 * half + 1,
                    "fwhm": float(field.catalog["fwhm"][row]),
                }
            )
    return found


def _catalogue_rows(report: Report, field: Field, named: Mapping[int, str]) -> list[dict[str, Any]]:
    """Rows of the catalogue with what photometry says about the sources, by the first label."""
    measured = next((entry for entry in report.statistics if entry.key == field.key), None)
    index = {} if measured is None else {int(n): i for i, n in enumerate(measured.source_id)}
    names, rows = _names(field), []
    for row, value in enumerate(field.catalog["source_id"][:_ROWS]):
        entry: dict[str, Any] = {name: float(field.catalog[name][row]) for name in _COLUMNS}
        entry |= {"id": int(value), "role": named.get(int(value), ""), "name": names[row]}
        if field.sky is not None:
            entry |= {name: float(field.catalog[name][row]) for name in ("ra", "dec")}
        at = index.get(int(value))
        entry["measured"] = None if measured is None or at is None else _measured(measured, at)
        rows.append(entry)
    return rows


def _measured(found: Statistics, at: int) -> dict[str, float]:
    flux = float(found.median_flux[at])
    safe = flux if flux > 0 else float("nan")
    return {
        "flux": flux,
        "scatter": float(found.scatter[at]) / safe,
        "error": float(found.median_error[at]) / safe,
        "flagged": float(found.flagged[at]),
    }


def _target_views(report: Report) -> list[dict[str, Any]]:
    """Light curves of each name with their period and fit: what the page opens with."""
    names = list(dict.fromkeys(curve.name for curve in report.relative))
    periods, fits = ({one.name: one for one in found} for found in (report.periods, report.fits))
    return [
        {
            "name": name,
            "curves": [_relative_view(curve) for curve in report.relative if curve.name == name],
            "period": periods.get(name),
            "fit": fits.get(name),
        }
        for name in names[:_TARGETS]
    ]


def _relative_view(curve: RelativeCurve) -> dict[str, Any]:
    shown = ", ".join(map(str, curve.comparisons[:30]))
    return {
        "curve": curve,
        "comparisons": shown + (f" and {len(curve.comparisons) - 30} more" if len(curve.comparisons) > 30 else ""),
    }
