"""Facts that archives want beside a light curve: observer, telescope, codes of bands (a file has them), and target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opticam_dask.parameters import read_parameters

#: Codes of bands by archive, for the usual names of filters, in lower case; the file goes before them.
#: AAVSO: aavso.org/filters; ADES: minorplanetcenter.net/iau/info/ADESFieldValues.html; ALCDEF 2.2, Table 3.
_USUAL: Mapping[str, Mapping[str, str]] = {
    "aavso": {
        **{name: f"S{name.upper()}" for name in "ugriz"},
        **{"clear": "CV", "c": "CV", "open": "CV", "l": "CV", "cbb": "CBB"},
    },
    "ades": {**{name: f"S{name}" for name in "ugriz"}, **{"clear": "C", "c": "C", "open": "C", "l": "C"}},
    "alcdef": {**{name: f"S{name.upper()}" for name in "ugriz"}, **{"clear": "C", "c": "C", "open": "C", "l": "C"}},
}

#: Names that are their own codes in all archives, in this case only: Johnson and Cousins, not Sloan.
_JOHNSON = ("U", "B", "V", "R", "I")

_TABLES = ("observer", "telescope", "bands")
_OBSERVER = ("name", "aavso", "secondary", "mpc", "contact", "site", "measurer", "submitter")
_TELESCOPE = ("design", "aperture", "detector", "f_ratio", "name")


@dataclass(frozen=True)
class Observer:
    """Codes and names that files for archives need.

    Attributes
    ----------
    name : str
        Name of the observer, initials first: ``A. Observer``.
    aavso, mpc : str
        Observer code of the AAVSO, code of the site at the Minor Planet Center.
    secondary : tuple of str
        AAVSO codes of other observers.
    contact, site, measurer, submitter : str
        Address, name of the site, and who measured and submits (the observer, where it is not told).
    telescope : dict
        ``design``, ``aperture`` (metres), ``detector`` (``CCD`` or ``CMO``), ``f_ratio``, ``name``.
    bands : dict
        Codes of filters: one for all archives, or by archive (``aavso``, ``ades``, ``alcdef``).
    """

    name: str = ""
    aavso: str = ""
    mpc: str = ""
    secondary: tuple[str, ...] = ()
    contact: str = ""
    site: str = ""
    measurer: str = ""
    submitter: str = ""
    telescope: Mapping[str, Any] = field(default_factory=dict)
    bands: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {name: getattr(self, name) for name in _OBSERVER if name != "secondary"}
        _require_lines({**own, **self.telescope})
        for code in self.secondary:
            _require_lines({"secondary": code})

    def band(self, filter_name: str, archive: str) -> str:
        """Code of a filter in the words of an archive.

        Raises
        ------
        ValueError
            When neither the file nor the usual names have it.
        """
        told = self.bands.get(filter_name)
        if isinstance(told, Mapping):
            told = told.get(archive)
        if told:
            return told
        if filter_name in _JOHNSON:
            return filter_name
        if filter_name.lower() in _USUAL[archive]:
            return _USUAL[archive][filter_name.lower()]
        raise ValueError(
            f"no {archive} code is known for the filter {filter_name!r}: give it in the file of the observer, as in\n"
            f'[bands]\n"{filter_name}" = {{ {archive} = "..." }}'
        )

    def needed(self, *names: str) -> None:
        """Refuse a file that does not tell what a format needs.

        Raises
        ------
        ValueError
            With the names of the entries that are missing.
        """
        if missing := [name for name in names if not getattr(self, name)]:
            raise ValueError(
                f"the file of the observer (--observer) must tell {', '.join(missing)} in its table [observer]"
            )


@dataclass(frozen=True)
class Submission:
    """Facts about an observation that an archive needs beside the light curve.

    Attributes
    ----------
    observer : Observer
        Names and codes.
    star, planet : str
        Names of the target.
    number : int
        Number of a minor planet; 0 where it has none.
    designation : str
        Provisional designation of a minor planet.
    notes, chart : str
        For the archive; number of a chart of comparison stars (AAVSO).
    leave_out : tuple of str
        Frames with one of these flags are no rows.
    """

    observer: Observer = field(default_factory=Observer)
    star: str = ""
    planet: str = ""
    number: int = 0
    designation: str = ""
    notes: str = ""
    chart: str = ""
    leave_out: tuple[str, ...] = ("outlier",)

    def __post_init__(self) -> None:
        names = ("star", "planet", "designation", "notes", "chart")
        _require_lines({name: getattr(self, name) for name in names})


def _require_lines(texts: Mapping[str, Any]) -> None:
    """Refuse texts that would be more than one line of a file.

    Raises
    ------
    ValueError
    """
    for name, text in texts.items():
        if not str(text).isprintable():
            raise ValueError(f"{name} must be one line of text without control characters, got {str(text)!r}")


def read_observer(path: str | Path) -> Observer:
    """Read an observer file: TOML, YAML or JSON with the tables ``observer``, ``telescope`` and ``bands``.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Observer

    Raises
    ------
    ValueError
        When it cannot be read, or has names that mean nothing.
    FileNotFoundError
        When there is no such file.
    """
    path = Path(path)
    values = _parsed(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold the tables {', '.join(_TABLES)}")
    own, telescope, bands = (values.get(name) or {} for name in _TABLES)
    for table, known in ((values, _TABLES), (own, _OBSERVER), (telescope, _TELESCOPE)):
        if unknown := sorted(set(table) - set(known)):
            raise ValueError(f"{path}: {', '.join(unknown)} is not known; known are {', '.join(known)}")
    texts = {name: str(value).strip() for name, value in own.items() if name != "secondary"}
    others = own.get("secondary", ())
    others = (others,) if isinstance(others, str) else tuple(map(str, others))
    others = tuple(code.strip() for code in others)
    telescope = {name: value.strip() if isinstance(value, str) else value for name, value in telescope.items()}
    return Observer(**texts, secondary=others, telescope=telescope, bands=bands)


def _parsed(path: Path) -> Any:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return read_parameters(path)
    import yaml  # type: ignore[import-untyped]  # dask brings it

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as {path.suffix}: {reason}") from error
