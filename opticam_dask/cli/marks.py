"""Commands about marks that observers set on measurements: mark, unmark, marks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from opticam_dask.cli.answers import answer
from opticam_dask.cli.exit_codes import DONE, UsageError
from opticam_dask.console import tell
from opticam_dask.lightcurves.curation import marking
from opticam_dask.lightcurves.curation import marks as curation


def mark(options: argparse.Namespace) -> int:
    """Mark frames, measurements or comparisons."""
    how = {name: getattr(options, name) for name in ("key", "frames", "sources", "label", "why", "who")}
    times = None if options.times is None else (_time(options.times[0]), _time(options.times[1]))
    with marking.warnings_told() as warned:
        numbers = marking.mark(options.out, options.kind, times=times, pairs=_pairs(options.pairs), **how)
    for line in [*warned, *curation.describe(curation.marks(options.out).loc[numbers])]:
        tell(line)
    return DONE


def _pairs(given: Sequence[float]) -> list[tuple[int, float, float]]:
    """Sources with their places, which the command line takes one after the other."""
    if len(given) % 3 or any(not number.is_integer() for number in given[::3]):
        raise UsageError("--pairs takes a source number, x and y, and these again for each star")
    return [(int(number), x, y) for number, x, y in zip(*[iter(given)] * 3, strict=True)]


def _time(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def unmark(options: argparse.Namespace) -> int:
    """Take marks back."""
    with marking.warnings_told() as warned:
        marking.unmark(options.out, options.numbers, who=options.who)
    numbers = list(dict.fromkeys(options.numbers))
    for line in [*warned, *curation.describe(curation.marks(options.out, undone=True).loc[numbers])]:
        tell(line)
    return DONE


def marks(options: argparse.Namespace) -> int:
    """List marks."""
    table = curation.marks(options.out, undone=options.undone)
    if options.json:
        answer({"marks": table.reset_index().to_dict("records")})
    for line in curation.describe(table) or ["no marks"]:
        tell(line)
    return DONE


#: Commands of this module by name.
COMMANDS = {"mark": mark, "unmark": unmark, "marks": marks}
