"""Parameters of a reduction: the one place of their default, unit, range and meaning.

Command-line options, ``--help``, configuration files, checks and the page of the documentation are made from what
stands here; signatures and docstrings are held to it by a test. What changes a result is a field of
:class:`ReductionParameters`; the other tables hold how a command runs and what it shows.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from opticam_dask.text import json_by_hand, read_by_hand

TransformType = Literal["affine", "translation"]

#: What a limit follows from that nobody gave; 0 is none as well.
NO_LIMIT = "no limit"


@dataclass(frozen=True)
class Parameter:
    """Definition of one parameter: default, unit, range and meaning.

    Parameters
    ----------
    sentence : str
        What it means, as one sentence without the full stop.
    default : object
        Its value where nobody gives one; None where it follows from something else.
    follows : str
        What it follows from where the default is None.
    kind : type
        ``float``, ``int``, ``str`` or ``bool``; of its elements where it holds several.
    unit : str
        Unit of its value; empty for pure numbers and names.
    least, above, most : float, optional
        Range: at least, greater than, at most.
    choices : tuple of str
        The values it may have; empty where there is no list.
    n_values : int or str
        How many values the option of the command line takes, as ``argparse`` has it (``"+"``: one or more).
    metavar : str or tuple of str
        What stands for the value in ``--help``.
    aliases : tuple of str
        Further spellings of the option.
    word : str
        The one word that it may be instead of a number.
    is_required : bool
        Whether a command cannot do without it.
    """

    sentence: str
    default: Any = None
    follows: str = ""
    kind: type = str
    unit: str = ""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    n_values: int | str | None = None
    metavar: str | tuple[str, ...] | None = None
    aliases: tuple[str, ...] = ()
    word: str = ""
    is_required: bool = False

    @property
    def default_text(self) -> str:
        """The default for people; empty where a switch is off and where there is none."""
        if isinstance(self.default, bool):
            return "yes" if self.default else ""
        if isinstance(self.default, float):
            return f"{self.default:g}"
        if isinstance(self.default, tuple) and self.default:
            return " ".join(map(str, self.default))
        return self.follows if self.default in (None, ()) else str(self.default).strip("(),'")

    @property
    def help(self) -> str:
        """The line of ``--help``: meaning and default."""
        unit = f", in {self.unit}" if self.unit else ""
        default = f" ({self.default_text})" if self.default_text else ""
        return f"{self.sentence[0].lower()}{self.sentence[1:]}{unit}{default}".replace("%", "%%")

    @property
    def range_text(self) -> str:
        """The values it may have, for people; empty where any will do."""
        limits = ((self.above, "greater than"), (self.least, "at least"), (self.most, "at most"))
        return ", ".join(self.choices) or " and ".join(
            f"{words} {limit:g}" for limit, words in limits if limit is not None
        )

    def check(self, name: str, value: Any) -> None:
        """Refuse a value of the wrong type or out of range.

        Parameters
        ----------
        name : str
            Name of the parameter, for the message.
        value : object
            Value, or tuple of values; None passes where it is the default.

        Raises
        ------
        ValueError
            When it is not of the kind or not in the range; the message says what is expected.
        """
        if (value is None and self.default is None) or (self.follows == NO_LIMIT and value == 0):
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} must be {' or '.join(map(repr, self.choices))}, got {value!r}")
        if self.kind is bool and value not in (True, False):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        if self.kind in (bool, str):
            return
        wanted = numbers.Integral if self.kind is int else numbers.Real
        for number in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(number, bool) or not (isinstance(number, wanted) and self._is_in_range(number)):
                kind = "a whole number of" if self.kind is int else ""
                expected = f"{kind} {self.range_text or 'a number'}".strip()
                raise ValueError(f"{name} must be {expected}, got {value!r}: {self.sentence}")

    def _is_in_range(self, number: Any) -> bool:
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        return least <= number <= most and (self.above is None or number > self.above)


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def held_to(
    *tables: Mapping[str, Parameter],
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorator that refuses arguments out of the range of their parameters before the function does anything.

    Parameters
    ----------
    *tables : dict of Parameter
        Parameters by name; arguments of other names are taken as they are, as are those that hold several values.

    Returns
    -------
    callable
        Decorator. The function raises ``ValueError`` for a value that is not of the kind or not in the range.
    """
    entries = {name: entry for table in tables for name, entry in table.items() if entry.range_text}

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in entries and entries[name].n_values != "+":
                    entries[name].check(name, value)
            return function(*args, **kwargs)

        return call

    return decorate


def _parameter(sentence: str, *, is_later: bool = False, **facts: Any) -> Any:
    """A field of a record. With ``is_later`` stores made before the field existed go on while it has its default."""
    entry = Parameter(sentence, **facts)
    return field(default=entry.default, metadata={"parameter": entry, "is_later": is_later})


def _documented(record: type) -> type:
    """Append the section with all parameters to the docstring of a record of parameters."""
    lines = [str(record.__doc__), "", "Parameters", "----------"]
    for entry in fields(record):
        lines += parameter_entry(entry.name, str(entry.type), entry.metadata["parameter"])
    record.__doc__ = "\n".join(lines) + "\n"
    return record


def parameter_entry(name: str, annotation: str, entry: Parameter) -> list[str]:
    """Lines of a numpydoc entry: type, and meaning with unit and default.

    Parameters
    ----------
    name : str
        Name of the parameter.
    annotation : str
        Its type, as it is written in the code.
    entry : Parameter
        Default, unit, range and meaning.
    """
    kind = annotation.replace(" | None", ", optional").replace(" | ", " or ").replace("tuple[", "(").replace("]", ")")
    unit = f", in {entry.unit}" if entry.unit else ""
    follows = f"; by default {entry.follows}" if entry.default is None and entry.follows else ""
    return [f"{name} : {kind}", f"    {entry.sentence}{unit}{follows}."]


@_documented
@dataclass(frozen=True)
class ReductionParameters:
    """Parameters of the first pass and of the catalogue."""

    threshold: float = _parameter(
        "Detection threshold", default=5.0, kind=float, unit="units of the background RMS", above=0, metavar="S"
    )
    box_size: int | tuple[int, int] | None = _parameter(
        "Side of a box of the sky mesh, or its two sides (ny, nx)",
        follows="1/32 of the shorter side of the frame",
        kind=int,
        unit="pixels",
        least=2,
        metavar="N",
    )
    n_pixels: int | None = _parameter(
        "Least number of connected pixels of a source",
        follows="from the instrument and the binning",
        kind=int,
        least=1,
        metavar="N",
    )
    border_width: int | None = _parameter(
        "Sources whose centre lies in this border are left out",
        follows="1/16 of the shorter side of the frame",
        kind=int,
        unit="pixels",
        least=0,
        metavar="N",
    )
    remove_cosmic_rays: bool = _parameter(
        "Replace cosmic rays (L.A.Cosmic) before anything else is measured", default=False, kind=bool
    )
    rebin_factor: int = _parameter(
        "Sum N x N pixels to one", default=1, kind=int, least=1, metavar="N", aliases=("--rebin",)
    )
    transform_type: TransformType = _parameter(
        "Solve for shift, rotation and scale of a frame, or for its shift alone",
        default="affine",
        choices=("affine", "translation"),
    )
    rotation_limit: float | None = _parameter(
        "Set frames aside that are rotated from the reference frame by more, either way",
        follows=NO_LIMIT,
        kind=float,
        unit="degrees",
        least=0,
        metavar="DEG",
    )
    translation_limit: float | tuple[float, float] | None = _parameter(
        "Set frames aside whose centre is shifted by more along x or y, either way",
        follows=NO_LIMIT,
        kind=float,
        unit="pixels of the frame",
        least=0,
        metavar="PIX",
    )
    scale_limit: float | None = _parameter(
        "Set frames aside whose scale differs by more than this factor above 1 (1.05 accepts 0.952 to 1.05)",
        follows=NO_LIMIT,
        kind=float,
        above=1,
        metavar="FACTOR",
    )
    n_alignment_sources: int = _parameter(
        "Number of the brightest sources that a frame is aligned by", default=30, kind=int, least=1, metavar="N"
    )
    max_catalog_sources: int = _parameter(
        "Number of the brightest sources of the stack that the catalogue holds",
        default=100,
        kind=int,
        least=1,
        metavar="N",
        aliases=("--max-sources",),
    )
    stack_frames: int = _parameter(
        "Largest number of frames of a night, evenly spaced, that are stacked; 0 stacks all",
        default=256,
        kind=int,
        least=0,
        metavar="N",
    )
    reference_night: str | None = _parameter(
        "Night (YYYY-MM-DD) whose frames give the reference frame and the catalogue",
        follows="the first night",
        metavar="DATE",
    )
    barycenter: bool = _parameter("Compute barycentric times (TDB)", default=True, kind=bool)
    target_coord: tuple[float, float] | None = _parameter(
        "Right ascension and declination of the target, which go before those of the headers",
        follows="the headers",
        kind=float,
        unit="degrees",
        n_values=2,
        metavar=("RA", "DEC"),
    )

    flats_of_other_filters: bool = _parameter(
        "Take the flats of another filter of the camera where a camera key has none of its own",
        default=False,
        kind=bool,
        is_later=True,
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, list):
                object.__setattr__(self, entry.name, value := tuple(value))
            entry.metadata["parameter"].check(entry.name, value)
        if self.target_coord is not None:
            ra, dec = self.target_coord
            if not (0 <= ra <= 360 and -90 <= dec <= 90):
                raise ValueError(f"target_coord must be RA 0..360 and DEC -90..90 in degrees, got {ra}, {dec}")


#: Everything that changes what a reduction finds.
REDUCTION: Mapping[str, Parameter] = {entry.name: entry.metadata["parameter"] for entry in fields(ReductionParameters)}

#: What is measured of each source.
PHOTOMETRY: Mapping[str, Parameter] = {
    "photometer": Parameter(
        "Aperture, optimal or psf; several are measured on one read of the frames",
        default=("aperture",),
        choices=("aperture", "optimal", "psf"),
        n_values="+",
        metavar="NAME",
    ),
    "forced": Parameter("Measure at the positions of the catalogue and do not recentre", default=False, kind=bool),
    "annulus": Parameter(
        "Take the sky from an annulus around each source, not from the mesh", default=False, kind=bool
    ),
    "radius": Parameter(
        "Radius of the aperture, or several, or best: the one in which constant stars scatter least",
        follows="one FWHM of the catalogue",
        kind=float,
        word="best",
        n_values="+",
        above=0,
        metavar="R",
    ),
    "radius_unit": Parameter(
        "Radii are in pixels of the reference frame, FWHM of the catalogue, or FWHM of each frame",
        default="pixel",
        choices=("pixel", "reference_fwhm", "frame_fwhm"),
    ),
    "label": Parameter("Name of the photometry", follows="what is measured", metavar="NAME"),
}

#: How a reduction runs; nothing of it changes a result.
EXECUTION: Mapping[str, Parameter] = {
    "frames_per_block": Parameter(
        "Frames of one task", follows="shape and pixel type of the frames", kind=int, least=1, metavar="N"
    ),
    "frame_timeout": Parameter(
        "Longest time that a frame may take before it is set aside (0 is no limit)",
        default=300.0,
        kind=float,
        unit="seconds",
        least=0,
        metavar="S",
    ),
    "break_lock": Parameter("Take the output directory over from a run that is surely dead", default=False, kind=bool),
    "figures": Parameter("Draw figures of catalogues, sky, alignment and noise", default=True, kind=bool),
}

#: What is done with a reduction that is there already.
CHANGES: Mapping[str, Parameter] = {
    "append": Parameter("Take up frames of which it has none, as further nights", default=False, kind=bool),
    "redo": Parameter("Reduce nights (YYYY-MM-DD) again", default=(), n_values="+", metavar="NIGHT"),
    "rebuild_reference": Parameter("Choose reference frame and catalogue again", default=False, kind=bool),
    "new": Parameter("Begin again; the old store is kept under another name", default=False, kind=bool),
}

#: Where blocks of frames run.
CLUSTER: Mapping[str, Parameter] = {
    "cluster": Parameter(
        "Local (worker processes here), none (this process), slurm, pbs, lsf, sge, oar, htcondor (jobs), a "
        "profile of Dask's configuration, or the address or file of a scheduler",
        follows="local",
        metavar="WHERE",
    ),
    "n_workers": Parameter(
        "Worker processes", follows="one a processor here", kind=int, least=1, metavar="N", aliases=("--workers",)
    ),
    "adapt": Parameter(
        "Least and most workers of a batch system; between them their number follows the work", metavar="MIN:MAX"
    ),
    "cores": Parameter("Cores of a job, a worker on each", follows="1", kind=int, least=1, metavar="N"),
    "memory": Parameter(
        "Memory of a job, or of a worker on this machine", follows="4GiB a core of a job", metavar="SIZE"
    ),
    "walltime": Parameter("Time limit of a job, as the batch system writes it", metavar="TIME"),
    "queue": Parameter("Queue or partition of a job", metavar="NAME"),
    "account": Parameter("Account or project of a job", metavar="NAME"),
    "job_extra": Parameter(
        "A further directive of a job; may be repeated", default=(), n_values="append", metavar="DIRECTIVE"
    ),
}

#: How a night is followed while its frames land.
WATCH: Mapping[str, Parameter] = {
    "target": Parameter(
        "Number of the target in the provisional catalogue, RA and Dec, or name, where the field is known on the sky",
        kind=str,
        n_values="+",
        metavar="ID",
    ),
    "comparisons": Parameter("Numbers of the comparison sources", default=(), kind=str, n_values="+", metavar="ID"),
    "n_first": Parameter(
        "Frames that the provisional catalogue of a camera is made of", default=10, kind=int, least=1, metavar="N"
    ),
    "idle": Parameter(
        "End after this time without a new frame", default=1800.0, kind=float, unit="seconds", metavar="S"
    ),
    "n_frames": Parameter("End after this number of frames", follows=NO_LIMIT, kind=int, metavar="N"),
    "patience": Parameter(
        "How long to wait for a file that does not grow", default=60.0, kind=float, unit="seconds", metavar="S"
    ),
}

#: Simulated observations of three cameras.
SIMULATION: Mapping[str, Parameter] = {
    "n_images": Parameter("Frames of each filter", default=100, kind=int, least=1, metavar="N", aliases=("--frames",)),
    "binning_scale": Parameter(
        "Pixels of a 2048 x 2048 detector that are binned along each axis",
        default=4,
        kind=int,
        least=1,
        metavar="B",
        aliases=("--binning",),
    ),
    "seed": Parameter("Seed of the noise", default=0, kind=int, metavar="S"),
    "compress": Parameter("Write .fits.gz", default=False, kind=bool),
    "overwrite": Parameter("Replace frames that are there; otherwise they are kept", default=False, kind=bool),
}


def parameter_names() -> list[str]:
    """Names of the parameters that a configuration file may hold."""
    return list(REDUCTION)


def parameters_from_mapping(values: Mapping[str, Any]) -> ReductionParameters:
    """Make parameters from names and values, refusing names that do not exist.

    Raises
    ------
    ValueError
        For an unknown name or a value out of range.
    """
    if unknown := sorted(set(values) - set(REDUCTION)):
        raise ValueError(f"unknown parameters {', '.join(unknown)}; known are {', '.join(sorted(REDUCTION))}")
    return ReductionParameters(**values)


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Read parameter names and values from a ``.toml`` or ``.json`` file.

    Raises
    ------
    ValueError
        When the file is not valid TOML or JSON, or does not hold a table.
    """
    path = Path(path)
    try:
        text = read_by_hand(path)
        values = json_by_hand(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as {path.suffix or 'TOML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold names and values, found {type(values).__name__}")
    return values
