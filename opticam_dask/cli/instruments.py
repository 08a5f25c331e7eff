"""Command ``instrument``: guess, write a template of, check or list definitions of cameras."""

from __future__ import annotations

import argparse
from pathlib import Path

from opticam_dask.cli.exit_codes import DONE, FAILED, RunError
from opticam_dask.console import tell
from opticam_dask.display import status
from opticam_dask.frames import scanning
from opticam_dask.frames.definitions.library import known_instruments, load_instrument
from opticam_dask.frames.guessing.sampling import guess_instrument
from opticam_dask.frames.guessing.unknown import unknown_camera
from opticam_dask.frames.instruments import generate_instrument_json_template
from opticam_dask.locations import write_text


def instrument(options: argparse.Namespace) -> int:
    """Guess, check or list definitions of cameras, or write a template."""
    return _ACTIONS[options.action](options)


def _guess(options: argparse.Namespace) -> int:
    """Read headers and propose a definition."""
    guess = guess_instrument(options.data)
    for line in guess.lines():
        tell(line)
    text = guess.to_json()
    if options.to is None:
        tell("The definition (--to FILE writes it):")
        for line in text.splitlines():
            tell(line)
        return DONE
    path = Path(options.to)
    if path.exists():
        raise RunError(f"{path} is there already and may have been filled in: give another --to, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    tell(f"The definition is in {path}: fill in what is missing, then opticam-dask instrument check {path} DATA.")
    return DONE


def _template(options: argparse.Namespace) -> int:
    """Write a definition to be filled in."""
    path = generate_instrument_json_template(options.directory)
    tell(f"The template is {path}.")
    return DONE


def _check(options: argparse.Namespace) -> int:
    """Say what frames a definition makes of files."""
    chosen = load_instrument(options.definition)
    found = scanning.scan(scanning.find_files(options.data), chosen)
    tell(f"Instrument {chosen.name}: {len(found.table)} usable frame(s), {len(found.set_aside)} set aside.")
    for line in status.describe_scan(found):
        tell(line)
    sentence, others = unknown_camera(found, chosen)
    reasons: dict[str, list[str]] = {}
    for file, reason in found.set_aside if sentence else others:
        reasons.setdefault(reason, []).append(file)
    for reason, files in reasons.items():
        tell(f"  set aside: {len(files)} file(s), e.g. {files[0]}: {reason}")
    return DONE if len(found.table) else FAILED


def _list(options: argparse.Namespace) -> int:
    """Name the definitions that are known."""
    del options
    for name, one in known_instruments().items():
        cameras = ", ".join(one.cameras)
        tell(f"{name}: {one.name}, camera {cameras}")
    return DONE


_ACTIONS = {"guess": _guess, "template": _template, "check": _check, "list": _list}

#: Commands of this module by name.
COMMANDS = {"instrument": instrument}
