"""Pages of the documentation that are made from the code, so that they cannot fall behind it.

Each function returns the text of a page or of a part of one; ``conf.py`` writes them before the site is built.
"""

from __future__ import annotations

import argparse
import ast
import base64
import html
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from enum import IntFlag
from pathlib import Path
from typing import Any

import opticam_dask
from opticam_dask import flags, parameters, result_parameters, schema
from opticam_dask.cli.parser import build_parser

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"

#: Where ``tests/test_notebooks.py`` leaves executed copies.
EXECUTED = ROOT / "build" / "notebooks"

# ---------------------------------------------------------------- the store

#: Where groups of each kind are, and a sentence on each.
_PLACES = {
    "frames": ("<key>/<night>/frames", "what headers and first pass say of each frame"),
    "background": ("<key>/<night>/background", "the sky mesh of each frame"),
    "sources": ("<key>/<night>/sources", "what was detected in each frame"),
    "stack": ("<key>/<night>/stack", "the aligned frames of the night, on the grid of the reference frame"),
    "psf": ("<key>/<night>/psf", "the profile of the night's stars"),
    "photometry": ("<key>/<night>/photometry/<label>", "each catalogue source in each frame"),
    "photometry_radii": ("<key>/<night>/photometry/<label>", "the same where a label has several radii"),
    "quality": ("<key>/<night>/quality", "what all frames of a night together say about each"),
    "reference": ("<key>/reference", "the stack of the reference night, and what frames are aligned to"),
    "catalog": ("<key>/catalog", "the sources that are measured"),
    "differential": ("<key>/differential/<name>", "light curves of a target against comparisons"),
    "fit": (
        "<key>/differential/<name>/fit",
        "the fit of a shape to a light curve, perhaps with those of other cameras",
    ),
    "calibration": ("calibration/...", "master bias, dark and flat"),
    "marks": (
        "marks",
        "what observers say about frames, measurements and comparisons: columns of the attribute `records` "
        "(older stores: arrays)",
    ),
    "set_aside": ("set_aside", "files that could not be used at all"),
}

_FLAG_TYPES: tuple[tuple[type[IntFlag], str, dict[Any, str]], ...] = (
    (flags.FrameFlag, "Frames: `frames/flags`", flags.FRAME_SENTENCES),
    (flags.SourceFlag, "Measurements: `photometry/<label>/flags`", flags.SOURCE_SENTENCES),
    (flags.QualityFlag, "Quality: `quality/flags`", flags.QUALITY_SENTENCES),
    (flags.Mark, "Marks: `marks` of light curves", flags.MARK_SENTENCES),
)


def store_variables() -> str:
    """One table a group: every variable that a store can hold."""
    known = [kind for kind in _PLACES if kind in schema.GROUPS]
    others = [kind for kind in schema.GROUPS if kind not in _PLACES]
    pieces = [f"The layout has version {schema.SCHEMA_VERSION}.\n"]
    for kind in [*known, *others]:
        place, sentence = _PLACES.get(kind, (kind, ""))
        pieces.append(f"### `{place}`\n\n{sentence[:1].upper()}{sentence[1:]}{'.' if sentence else ''}\n")
        rows = (
            (f"`{entry.name}`", ", ".join(entry.dims), entry.dtype, f"`{entry.units}`", entry.long_name)
            for entry in schema.GROUPS[kind]
        )
        pieces.append(_table(("variable", "dimensions", "type", "unit", "meaning"), rows))
    return "\n".join(pieces)


def flag_tables() -> str:
    """One table a kind of flag: bit, name and sentence."""
    pieces = []
    for flag_type, title, sentences in _FLAG_TYPES:
        rows = (
            (str(int(member).bit_length() - 1), f"`{str(member.name).lower()}`", sentences[member])
            for member in flag_type
        )
        pieces.append(f"### {title}\n\n" + _table(("bit", "name", "meaning"), rows))
    return "\n".join(pieces)


# ---------------------------------------------------------------- the command line


def command_pages() -> str:
    """Every command with its usage and its options, as the parser has them."""
    parser = build_parser()
    return "\n".join(_command(name, entry) for name, entry in commands(parser).items())


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Parsers of the commands by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    usage = re.sub(r"\s+", " ", parser.format_usage()).removeprefix("usage: ").strip()
    pieces = [f"## {name}\n", f"{parser.description}\n", f"```text\n{_wrapped(usage)}\n```\n"]
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        ]
        if actions:
            heading = {"positional arguments": "arguments", "optional arguments": "options"}
            title = heading.get(str(group.title), str(group.title))
            rows = ((_spelling(action), _text(action.help or "")) for action in actions)
            pieces.append(_table((title, ""), rows))
    return "\n".join(pieces)


def _wrapped(usage: str, width: int = 76) -> str:
    """Usage in lines that break between options only."""
    lines, line = [], ""
    for token in re.findall(r"\[[^\]]*(?:\[[^\]]*\][^\]]*)*\]|\S+", usage):
        if line and len(line) + len(token) + 1 > width:
            lines.append(line)
            line = "    " + token
        else:
            line = f"{line} {token}" if line else token
    return "\n".join([*lines, line])


def _spelling(action: argparse.Action) -> str:
    words = argparse.HelpFormatter(prog="")._format_args(action, _metavar(action)) if action.nargs != 0 else ""
    if not action.option_strings:
        return f"`{words}`"
    return " ".join(f"`{option} {words}`".replace(" `", "`") for option in action.option_strings[:1]) + "".join(
        f", `{option}`" for option in action.option_strings[1:]
    )


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


# ---------------------------------------------------------------- the parameters

_TABLES = (
    ("What changes results (also in `--config FILE`)", parameters.REDUCTION),
    ("What is measured", parameters.PHOTOMETRY),
    ("Where blocks run", parameters.CLUSTER),
    ("How a run goes on", {**parameters.EXECUTION, **parameters.CHANGES}),
    ("Live nights", parameters.WATCH),
    ("Differential light curves", result_parameters.DIFFERENTIAL),
    ("Fit of a transit", result_parameters.TRANSIT),
    ("Fit of an eclipse", result_parameters.ECLIPSE),
    ("Fit of a sinusoid", result_parameters.SINUSOID),
    ("Magnitudes", result_parameters.MAGNITUDES),
    ("Files for archives", result_parameters.SUBMISSION),
    ("Simulated observations", parameters.SIMULATION),
    ("What is shown", result_parameters.SHOWING),
)


def parameter_tables() -> str:
    """One table a kind of parameter: name, default, unit, range and meaning."""
    pieces = []
    for title, entries in _TABLES:
        rows = (
            (
                f"`{name}`",
                entry.default_text or ("no" if entry.default is False else ""),
                entry.unit,
                entry.range_text,
                entry.sentence,
            )
            for name, entry in entries.items()
        )
        pieces.append(f"## {title}\n\n" + _table(("parameter", "default", "unit", "range", "meaning"), rows))
    return "\n".join(pieces)


# ---------------------------------------------------------------- the public names

#: Groups of the public names by the module that they come from; others come last.
_API = (
    (
        "Steps",
        tuple(f"api.steps.{name}" for name in ("frames", "calibrate", "background", "detect", "align", "stack"))
        + tuple(f"api.steps.{name}" for name in ("coadd", "catalog", "measure", "relative", "reduce")),
    ),
    ("Reduce", ("api.reducer", "api.differential_photometer", "parameters")),
    (
        "What may be replaced",
        (
            "methods.photometers",
            "methods.psf_photometer",
            "methods.backgrounds",
            "methods.local_backgrounds",
            "methods.finders",
            "api.correctors",
        ),
    ),
    (
        "Open and look",
        (
            "lightcurves.results",
            "lightcurves.differential",
            "lightcurves.field.magnitudes",
            "passes.camera_matching",
            "lightcurves.exports",
            "lightcurves.conversions",
        ),
    ),
    (
        "Fits and files for archives",
        (
            "api.kept_fits",
            "lightcurves.fitting.transits",
            "lightcurves.fitting.eclipses",
            "lightcurves.fitting.sinusoids",
            "lightcurves.fitting.outcome",
            "lightcurves.submission.observer",
            "lightcurves.submission.writing",
        ),
    ),
    ("Frames and instruments", ("frames.scanning", "frames.instruments", "frames.samples.fetching")),
    (
        "Simulate",
        ("frames.simulation.synthetic", "frames.simulation.simulated_fields", "frames.simulation.simulated_detectors"),
    ),
)


#: What xarray's objects have as ``.opticam``: of a dataset, an array, and the tree of a reduction.
_ACCESSORS = ("OpticamAccessor", "OpticamArrayAccessor", "OpticamTreeAccessor")


def api_page() -> str:
    """Page with tables of all public names, each with a page of its own, and of the accessors."""
    homes: dict[str, str] = opticam_dask._HOME
    grouped = {title: sorted(name for name in homes if homes[name] in modules) for title, modules in _API}
    rest = sorted(set(homes) - {name for names in grouped.values() for name in names})
    tables = {title: [f"opticam_dask.{name}" for name in names] for title, names in [*grouped.items(), ("More", rest)]}
    tables["Methods of datasets, `.opticam`"] = [f"opticam_dask.lightcurves.selection.{name}" for name in _ACCESSORS]
    pieces = []
    for title, names in tables.items():
        if names:
            listed = "\n".join(f"   {name}" for name in names)
            table = f".. autosummary::\n   :toctree: names\n   :nosignatures:\n\n{listed}"
            pieces.append(f"## {title}\n\n```{{eval-rst}}\n{table}\n```\n")
    head = "# Public names\n\nEverything here is imported as `import opticam_dask as opticam`, `opticam.<name>`.\n"
    return "\n".join([head, *pieces])


# ---------------------------------------------------------------- the map of the modules

_WIDTH, _BOX, _GAP, _LETTER = 940, 30, 10, 7.4
_TITLE = 150  # width of the column with the names of the rooms

#: Subpackages that are several modules on the map; others are one.
_OPENED = ("kernels.images", "kernels.sources", "kernels.series", "pipeline.stages")


def rooms() -> dict[str, list[str]]:
    """Modules of each room, from the face to the vocabulary, as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (contract,) = (entry for entry in contracts["contracts"] if entry["type"] == "layers")
    found: dict[str, list[str]] = {}
    for row in contract["layers"]:
        names = [name.strip().split(".", 1)[1] for name in row.split(":")]
        found |= {"vocabulary": names} if len(names) > 1 else {names[0]: modules_of(names[0])}
    return found


def modules_of(room: str) -> list[str]:
    """Names of the modules of a room, without that of the package."""
    found: list[str] = []
    for path in sorted((ROOT / "opticam_dask" / Path(*room.split("."))).iterdir()):
        name = f"{room}.{path.stem}"
        if name in _OPENED:
            found += modules_of(name)
        elif (path / "__init__.py").exists() or (path.suffix == ".py" and not path.stem.startswith("__")):
            found.append(name)
    return found


def charter(module: str) -> str:
    """First sentence of a module's docstring."""
    path = ROOT / "opticam_dask" / Path(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")


def imports(module: str) -> set[str]:
    """Modules of this package that a module imports, when it is loaded or later."""
    path = ROOT / "opticam_dask" / Path(*module.split("."))
    known = {name for names in rooms().values() for name in names} - {module}
    found: set[str] = set()
    for file in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "opticam_dask":
                home = str(node.module).removeprefix("opticam_dask").lstrip(".")
                found |= {home, *(f"{home}.{alias.name}".lstrip(".") for alias in node.names)}
    return known & found


def module_map() -> str:
    """SVG of the rooms; a box says what its module is for, and marks what it imports, when it is pointed at."""
    boxes: list[str] = []
    y = 34.0
    for number, (room, modules) in enumerate(rooms().items()):
        top = y
        for line in _lines(modules):
            x = float(_TITLE)
            for module, width in line:
                boxes.append(_box(module, x, y, width))
                x += width + _GAP
            y += _BOX + _GAP
        band = y - top
        shade = "band even" if number % 2 else "band"
        boxes.insert(0, f'<rect class="{shade}" x="0" y="{top - _GAP / 2:g}" width="{_WIDTH}" height="{band:g}"/>')
        boxes.append(f'<text class="note" x="40" y="{top + 19.5:g}">{room}</text>')
    arrow = (
        f'<path class="arrow" d="M18 40 V{y - 16:g} m-6 -9 l6 9 l6 -9"/><text class="note" x="10" y="20">'
        "a room uses only rooms below it</text>"
    )
    return (
        f'<div class="module-map"><svg viewBox="0 0 {_WIDTH} {y:g}" role="img" '
        f'aria-label="The modules of opticam_dask in their rooms">{"".join(boxes)}{arrow}</svg>'
        '<p class="module-charter">Point at a module to see what it is for and what it imports.</p></div>\n'
    )


def _lines(modules: Sequence[str]) -> Iterator[list[tuple[str, float]]]:
    """Boxes of one room in lines that fit, each with its width."""
    line: list[tuple[str, float]] = []
    used = float(_TITLE)
    for module in modules:
        width = len(_label(module)) * _LETTER + 20
        if line and used + width > _WIDTH - 10:
            yield line
            line, used = [], float(_TITLE)
        line.append((module, width))
        used += width + _GAP
    yield line


def _label(module: str) -> str:
    return module.rpartition(".")[2]


def _box(module: str, x: float, y: float, width: float) -> str:
    text = html.escape(charter(module), quote=True)
    used = html.escape(" ".join(sorted(imports(module))), quote=True)
    return (
        f'<g class="module" tabindex="0" data-name="{module}" data-imports="{used}" data-charter="{text}">'
        f"<title>{text}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX}" rx="4"/>'
        f'<text x="{x + width / 2:g}" y="{y + 19.5:g}">{_label(module)}</text></g>'
    )


# ---------------------------------------------------------------- the tutorials


def tutorials() -> dict[str, str]:
    """Notebooks by name, as JSON: the executed copy of each, or the clean one where there is none of this text."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        executed = EXECUTED / path.name
        is_fresh = executed.exists() and _sources(executed) == _sources(path)
        found[path.stem] = (executed if is_fresh else path).read_text(encoding="utf-8")
    return found


#: Order of the tutorials; others come last.
_FIRST = ("steps", "reduction", "backgrounds", "finders", "corrections", "local_backgrounds", "instruments")
_ORDER = (*_FIRST, "timing_methods", "timing", "big_run", "hpc", "hat_p_32")


def tutorial_list() -> str:
    """List of the tutorials, each with its first sentences, and the tree that puts them into the navigation."""
    names = sorted(tutorials(), key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    entries = []
    for name in names:
        title, paragraph = _first_words(NOTEBOOKS / f"{name}.ipynb")
        entries.append(f"[{title}](tutorials/{name}.ipynb)\n: {paragraph}\n")
    tree = "\n".join(f"tutorials/{name}" for name in names)
    return "\n".join(entries) + f"\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"


def _first_words(path: Path) -> tuple[str, str]:
    """Title and first paragraph of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, _, rest = "".join(cells[0]["source"]).partition("\n")
    return title.removeprefix("# ").strip(), rest.strip().split("\n\n")[0].replace("\n", " ")


def _sources(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells]


def not_executed() -> list[str]:
    """Notebooks that would be shown without figures, apart from those that need real frames."""
    return [
        name
        for name, text in tutorials().items()
        if not any(cell.get("outputs") for cell in json.loads(text)["cells"]) and "OPTICAM_DASK_REAL_DATA" not in text
    ]


def last_figure(name: str) -> bytes | None:
    """Last picture of an executed notebook; None where it is not executed."""
    cells = json.loads(tutorials()[name])["cells"]
    pictures = [
        output["data"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode("".join(pictures[-1])) if pictures else None


# ---------------------------------------------------------------- tables


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _text(sentence: str) -> str:
    """Sentence in which nothing is taken for markup."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", sentence.replace("%%", "%"))
