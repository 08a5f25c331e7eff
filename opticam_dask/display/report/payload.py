"""Numbers for the script of the page, packed as text, with the styles of the cameras and the names of the flags."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from opticam_dask.display.report.records import Curves, FittedShape, Period, ProfileNight, Report, Statistics
from opticam_dask.display.report.thinning import TICK, Clock, Column
from opticam_dask.flags import SourceFlag
from opticam_dask.store.camera import group_name

#: Observing conditions in the order in which they are shown: name, heading, label of the axis, unit.
PANELS = (
    ("fwhm", "Seeing", "FWHM", "pixel"),
    ("background", "Sky background", "Sky", "e⁻ pixel⁻¹"),
    ("transparency", "Transparency", "Transparency", ""),
    ("airmass", "Airmass", "Airmass", ""),
    ("ellipticity", "Ellipticity of the stars", "1 - b/a", ""),
    ("n_sources", "Detected sources", "Sources", ""),
    ("shift_x", "Alignment: shift in x", "Shift x", "pixel"),
    ("shift_y", "Alignment: shift in y", "Shift y", "pixel"),
    ("rotation", "Alignment: rotation", "Rotation", "deg"),
    ("transform_rms", "Alignment: distance of matched sources", "RMS", "pixel"),
    ("background_rms", "Scatter of the sky", "Sky RMS", "e⁻ pixel⁻¹"),
)  # fmt: skip

#: Number of the colour that the style sheet has for a filter.
_COLOURS = {"g": 2, "r": 1, "i": 3, "u": 0, "z": 4}
#: Colours of the style sheet: other filters take them in turns.
_N_COLOURS = 6


def panels(report: Report) -> list[dict[str, str]]:
    """Plots of the observing conditions of which something is known, in their order."""
    present = {name for night in report.conditions for name in night.columns}
    return [
        {"name": name, "heading": heading, "label": label, "unit": unit}
        for name, heading, label, unit in PANELS
        if name in present
    ]


def payload(report: Report) -> dict[str, Any]:
    """All that the script draws, as JSON can hold it."""
    return {
        "tick": TICK,
        "keys": _key_styles(report.keys),
        "flags": {
            "frame": [[1, "set aside"], [2, "clouds"], [4, "suspect time"]],
            "source": [[int(flag), str(flag.name).lower().replace("_", " ")] for flag in SourceFlag if flag != 1],
        },
        "panels": panels(report),
        "conditions": [
            {
                "key": night.key,
                **_clock(night.clock),
                "flags": _words(night.flags),
                "columns": {name: _column(column) for name, column in night.columns.items()},
            }
            for night in report.conditions
        ],
        "curves": [_curves(one) for one in report.curves],
        "relative": [
            {
                "key": one.key,
                "name": one.name,
                "target": one.target,
                "label": one.label,
                "scale": _scale(one.has_bmjd),
                "nights": [{**_clock(clock), "column": _column(column)} for clock, column in one.nights],
            }
            for one in report.relative
        ],
        "periods": [_period(one) for one in report.periods],
        "fits": [_fit(one) for one in report.fits],
        "noise": [_noise(one) for one in report.statistics],
        "profiles": [_profile(one) for one in report.profiles],
    }


def _key_styles(keys: Sequence[str]) -> list[dict[str, Any]]:
    """Colour and marker of each key: the usual colour of its filter, or else the next free one."""
    taken: set[int] = set()
    styles = []
    wanted = [_COLOURS.get(key.split(":")[-1].rstrip("'").lower()) for key in keys]
    free = [colour for colour in range(_N_COLOURS) if colour not in wanted]
    for position, (key, colour) in enumerate(zip(keys, wanted, strict=True)):
        if colour is None or colour in taken:
            colour = free.pop(0) if free else position % _N_COLOURS
        taken.add(colour)
        styles.append({"key": key, "name": group_name(key), "colour": colour, "marker": position})
    return styles


def _scale(has_bmjd: bool) -> str:
    return "BMJD (TDB)" if has_bmjd else "MJD (UTC)"


def _clock(clock: Clock) -> dict[str, Any]:
    return {"night": clock.night, "zero": clock.zero, "t": _words(clock.ticks), "n": clock.per_point}


def _column(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"m": _floats(column.middle)}
    arrays: Mapping[str, tuple[np.ndarray | None, Callable[[np.ndarray], str]]] = {
        "l": (column.low, _floats),
        "h": (column.high, _floats),
        "e": (column.error, _floats),
        "f": (column.flags, _words),
    }
    for name, (values, encode) in arrays.items():
        if values is not None and (name != "f" or values.any()):
            found[name] = encode(values)
    return found


def _curves(one: Curves) -> dict[str, Any]:
    return {
        "key": one.key,
        "label": one.label,
        "radius": one.radius,
        "sources": list(one.sources),
        "scale": _scale(one.has_bmjd),
        "nights": [
            {**_clock(clock), "columns": [_column(column) for column in columns]} for clock, columns in one.nights
        ],
    }


def _period(one: Period) -> dict[str, Any]:
    folded = {
        key: {name: _list(np.tile(getattr(curve, name), 2)) for name in ("flux", "error")}
        | {"phase": _list(np.concatenate([curve.phase, curve.phase + 1.0]))}
        for key, curve in one.folded.items()
    }
    return {"name": one.name, "period": one.period, "frequency": _list(one.frequency), "power": _list(one.power),
            "folded": folded}  # fmt: skip


def _fit(one: FittedShape) -> dict[str, Any]:
    series = [
        {"key": own.key, "night": own.night, "zero": own.zero, "hours": _list(own.hours), "flux": _list(own.flux, 7),
         "error": _list(own.error), "model": _list(own.model, 7), "fitted": own.is_fitted.tolist()}
        for own in one.series
    ]  # fmt: skip
    return {"name": one.name, "shape": one.shape, "series": series}


def _noise(one: Statistics) -> dict[str, Any]:
    known = (one.median_flux > 0) & (one.scatter > 0)
    flux = one.median_flux[known]
    model = {
        name: _list(values if name == "flux" else values / one.model["flux"]) for name, values in one.model.items()
    }
    return {
        "key": one.key,
        "label": one.label,
        "source": one.source_id[known].tolist(),
        "flux": _list(flux),
        "scatter": _list(one.scatter[known] / flux),
        "error": _list(one.median_error[known] / flux),
        "model": model,
    }


def _profile(one: ProfileNight) -> dict[str, Any]:
    arrays = {name: _list(one.arrays[name]) for name in ("radius", "profile", "measured", "measured_err")}
    return {"key": one.key, "night": one.night, **arrays}


def _list(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Numbers of JSON, with the digits that can be seen; null for what is not finite."""
    return [
        float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in np.asarray(values, float).tolist()
    ]


def _floats(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def _words(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, "<u4").tobytes()).decode()
