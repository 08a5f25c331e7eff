"""Parameters of a reduction: frozen records, their JSON and TOML form, and a stable hash.

What changes a result is a parameter; what only changes how fast it is computed (workers, windows, memory) is
not, and has no place here.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

TransformType = Literal["affine", "translation"]

#: Where modules whose functions and classes people hand to a reduction were before they had a room.
_BEFORE_ROOMS = {
    "opticam_dask.methods": (
        "opticam_dask",
        "backgrounds finders frame_view local_backgrounds measuring photometer_kinds photometers psf_photometer",
    ),
    "opticam_dask.api": ("opticam_dask", "correctors"),
    "opticam_dask.kernels.images": (
        "opticam_dask.kernels",
        "align background box_statistics calibrate detect masters match segments sky stack",
    ),
    "opticam_dask.kernels.sources": (
        "opticam_dask.kernels",
        "annulus growth joint_fit noise photometry profile",
    ),
    "opticam_dask.kernels.series": (
        "opticam_dask.kernels",
        "airmass correlation ensemble folding lightcurve periodograms quality spectra timing trends",
    ),
}
#: Module -> the name that stands in what is stored: stores of then and of now name one thing alike, so that their
#: parameters compare equal and a run of then goes on.
_STORED_MODULES = {
    f"{room}.{name}": f"{before}.{name}" for room, (before, names) in _BEFORE_ROOMS.items() for name in names.split()
}


@dataclass(frozen=True)
class ReductionParameters:
    """Everything that the first pass and the catalogue depend on.

    Parameters
    ----------
    threshold : float
        Detection threshold in units of the background RMS.
    box_size : int or (int, int), optional
        Size of a sky mesh box in pixels, ``(ny, nx)``; by default 1/32 of the shorter side of the frame.
    n_pixels : int, optional
        Least number of connected pixels of a source; by default from the instrument and the binning.
    border_width : int, optional
        Sources that touch this border are not used; by default 1/16 of the shorter side of the frame.
    remove_cosmic_rays : bool
        Replace cosmic rays (L.A.Cosmic) before anything else is measured.
    rebin_factor : int
        Sum ``rebin_factor`` x ``rebin_factor`` pixels.
    transform_type : {"affine", "translation"}
        ``affine`` solves for shift, rotation and scale, ``translation`` for the shift alone.
    rotation_limit : float, optional
        Largest rotation from the reference frame, either way, in degrees.
    translation_limit : float or (float, float), optional
        Largest shift of the field centre along x and y, either way, in pixels of the frame.
    scale_limit : float, optional
        Largest change of scale as a factor above 1, either way (1.05 accepts 0.952 to 1.05).
    n_alignment_sources : int
        How many of the brightest sources are used to align a frame.
    max_catalog_sources : int
        How many of the brightest sources of the stack the catalogue holds.
    stack_frames : int
        At most so many aligned frames of a night, evenly spaced, are stacked; 0 stacks all.
    reference_night : str, optional
        Night (``YYYY-MM-DD``) whose frames give the reference frame and the catalogue; by default the first.
    barycenter : bool
        Compute barycentric times.
    target_coord : (float, float), optional
        Right ascension and declination of the target in degrees; goes before the headers.
    """

    threshold: float = 5.0
    box_size: int | tuple[int, int] | None = None
    n_pixels: int | None = None
    border_width: int | None = None
    remove_cosmic_rays: bool = False
    rebin_factor: int = 1
    transform_type: TransformType = "affine"
    rotation_limit: float | None = None
    translation_limit: float | tuple[float, float] | None = None
    scale_limit: float | None = None
    n_alignment_sources: int = 30
    max_catalog_sources: int = 100
    stack_frames: int = 256
    reference_night: str | None = None
    barycenter: bool = True
    target_coord: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("box_size", "translation_limit", "target_coord"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        _check_numbers(self)


def _check_numbers(parameters: ReductionParameters) -> None:
    """Refuse values that cannot mean anything, before a file is opened."""
    _require_at_least(parameters, 1, "rebin_factor", "n_alignment_sources", "max_catalog_sources")
    _require_at_least(parameters, 0, "stack_frames")
    for name, least in (("n_pixels", 1), ("border_width", 0)):
        if getattr(parameters, name) is not None:
            _require_at_least(parameters, least, name)
    if not parameters.threshold > 0:
        raise ValueError(f"threshold must be greater than 0, got {parameters.threshold}")
    if parameters.transform_type not in ("affine", "translation"):
        raise ValueError(f"transform_type must be 'affine' or 'translation', got {parameters.transform_type!r}")
    if parameters.scale_limit and parameters.scale_limit <= 1:
        raise ValueError(
            f"scale_limit must be a factor above 1 (1.05 accepts 0.952 to 1.05), got {parameters.scale_limit}"
        )
    box = parameters.box_size
    if box is not None and min(box if isinstance(box, tuple) else (box,)) < 2:
        raise ValueError(f"box_size must be at least 2 pixels, got {box}")
    if parameters.target_coord is not None:
        ra, dec = parameters.target_coord
        if not (0 <= ra <= 360 and -90 <= dec <= 90):
            raise ValueError(f"target_coord must be RA 0..360 and DEC -90..90 in degrees, got {ra}, {dec}")


def _require_at_least(parameters: ReductionParameters, least: int, *names: str) -> None:
    for name in names:
        value = getattr(parameters, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def parameter_names() -> list[str]:
    """Names of the parameters that a configuration file may hold."""
    return [entry.name for entry in fields(ReductionParameters)]


def parameters_from_mapping(values: Mapping[str, Any]) -> ReductionParameters:
    """Make parameters from names and values, refusing names that do not exist.

    Raises
    ------
    ValueError
        For an unknown name or a value out of range.
    """
    known = set(parameter_names())
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown parameters {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return ReductionParameters(**values)


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Read parameter names and values from a ``.toml`` or ``.json`` file.

    Raises
    ------
    ValueError
        When the file is not valid TOML or JSON, or does not hold a table.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix or 'TOML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold names and values, found {type(values).__name__}")
    return values


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
