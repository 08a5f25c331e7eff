"""Identity of parameters in a store: their description as JSON, its hash, and differences between two of them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

#: Where modules whose functions and classes people hand to a reduction were before they had a room.
_BEFORE_ROOMS = {
    "opticam_dask.methods": (
        "opticam_dask",
        "backgrounds finders frame_view local_backgrounds measuring photometer_kinds photometers psf_photometer",
    ),
    "opticam_dask.api": ("opticam_dask", "correctors"),
    "opticam_dask.kernels.images": ("opticam_dask.kernels", "calibrate detect masters segments stack"),
    "opticam_dask.kernels.images.matching": ("opticam_dask.kernels", "align match"),
    "opticam_dask.kernels.images.sky": ("opticam_dask.kernels", "background box_statistics"),
    "opticam_dask.kernels.sources": ("opticam_dask.kernels", "annulus joint_fit noise photometry"),
    "opticam_dask.kernels.sources.profiles": ("opticam_dask.kernels", "growth profile"),
    "opticam_dask.kernels.series": (
        "opticam_dask.kernels",
        "airmass correlation ensemble folding lightcurve periodograms quality spectra timing trends",
    ),
}
#: Module -> the name that stands in what is stored: stores of then and of now name one thing alike, so that their
#: parameters compare equal and a run of then goes on.
_STORED_MODULES = {
    f"{room}.{name}": f"{before}.{name}" for room, (before, names) in _BEFORE_ROOMS.items() for name in names.split()
} | {"opticam_dask.kernels.images.sky.subtraction": "opticam_dask.kernels.sky"}
#: Former name of a module, which may stand in a pickle -> its name now.
NAMES_NOW = {before: now for now, before in _STORED_MODULES.items()} | {
    "opticam_dask.config": "opticam_dask.parameters",
    "opticam_dask.instruments": "opticam_dask.frames.instruments",
    "opticam_dask.reduction": "opticam_dask.pipeline.reduction",
    "opticam_dask.cluster_settings": "opticam_dask.cluster.cluster_settings",
    "opticam_dask.analysis": "opticam_dask.api.analysis.analyzer",
    "opticam_dask.calibration": "opticam_dask.passes.calibration",
    "opticam_dask.differential_photometer": "opticam_dask.api.differential_photometer",
    "opticam_dask.fits_files": "opticam_dask.frames.fits_files",
    "opticam_dask.timing_inputs": "opticam_dask.lightcurves.timing_inputs",
    "opticam_dask.timing_results": "opticam_dask.lightcurves.timing_results",
}


def describe(value: Any) -> Any:
    """Turn a parameter into something JSON can hold, the same for equal parameters.

    A function is described by its module, name, source, defaults, what it closes over and what is bound to it;
    an object of a class by its class and its attributes.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        # an entry that stores of before do not have is told where it says something
        said = [entry for entry in fields(value) if not entry.metadata.get("is_later") or _is_said(value, entry)]
        own = {entry.name: describe(getattr(value, entry.name)) for entry in said}
        return {"class": type(value).__qualname__, **own}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((describe(item) for item in value), key=repr)
    if hasattr(value, "tolist"):
        return value.tolist()
    return _describe_callable(value)


def _is_said(value: Any, entry: Field[Any]) -> bool:
    return bool(getattr(value, entry.name) != entry.default)


def _describe_callable(value: Any) -> dict[str, Any]:
    if isinstance(value, functools.partial):
        return {
            "partial": describe(value.func),
            "args": describe(value.args),
            "keywords": describe(value.keywords),
        }
    if inspect.ismethod(value):
        return {"method": value.__name__, "of": describe(value.__self__)}
    if inspect.isfunction(value):
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        return {
            "function": _stored_name(value),
            "source": _source_of(value),
            "defaults": describe([value.__defaults__, value.__kwdefaults__]),
            "closure": describe(closure),
        }
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return {"name": _stored_name(value)}
    kind = type(value)
    own_source = _source_of(kind) if kind.__module__ == "__main__" else None
    return {
        "class": _stored_name(kind),
        "source": own_source,
        **describe(getattr(value, "__dict__", {})),
    }


def _stored_name(value: Any) -> str:
    return f"{_STORED_MODULES.get(value.__module__, value.__module__)}.{value.__qualname__}"


def _source_of(value: Callable[..., Any]) -> str:
    """Source text, or the compiled code where the source is gone (an interactive prompt)."""
    try:
        return textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):
        code = getattr(value, "__code__", None)
        return "" if code is None else hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()


def parameters_json(value: Any) -> str:
    """Canonical JSON of a parameter record: sorted keys, no host facts."""
    return json.dumps(describe(value), sort_keys=True, separators=(",", ":"))


def parameters_hash(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of :func:`parameters_json`."""
    return hashlib.sha256(parameters_json(value).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Names that differ between two described records, with both values, for a message."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines: list[str] = []
        for name in sorted(set(old) | set(new)):
            lines += differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else str(name))
        return lines
    if old == new:
        return []
    return [f"{prefix}: {_short(old)} before, {_short(new)} now"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
