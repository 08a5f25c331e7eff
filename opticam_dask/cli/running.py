"""Run a command: import its module, and report errors of the user in one line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from opticam_dask.cli.exit_codes import RunError, UsageError, one_line
from opticam_dask.console import is_watched, spoken, tell

__all__ = ["run", "spoken"]

#: Module of this room that each command is in; it is imported when the command runs.
_MODULES = {
    **dict.fromkeys(("demo", "sample", "generate", "check"), "frames"),
    "reduce": "runs.reductions",
    "watch": "runs.watching",
    **dict.fromkeys(("plan", "work", "finish", "cluster"), "runs.jobs"),
    **dict.fromkeys(("status", "verify", "migrate", "relocate", "remove"), "stores"),
    "sky": "sky",
    "instrument": "instruments",
    "completion": "help.completion",
    **dict.fromkeys(("fit-transit", "fit-eclipse", "fit-sinusoid", "magnitudes", "submit"), "derived"),
    **dict.fromkeys(("lightcurve", "export", "plot", "report", "browse"), "results"),
    **dict.fromkeys(("mark", "unmark", "marks"), "marks"),
}


#: What commands say at once whose rooms take a second or more to import, where somebody looks on: the first word.
_FIRST_WORDS = {
    **dict.fromkeys(("check", "plan", "watch"), "Reading"),
    **dict.fromkeys(("work", "finish", "sky", "lightcurve", "export", "plot", "report", "browse"), "Opening"),
    **dict.fromkeys(("fit-transit", "fit-eclipse", "fit-sinusoid", "magnitudes", "submit"), "Opening"),
}


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for.

    Raises
    ------
    UsageError
        When the command was asked for something that makes no sense (exit 2).
    RunError
        When it could not be done (exit 1).
    """
    if options.command in _FIRST_WORDS and is_watched():
        places = getattr(options, "data", None) or [options.out]
        tell(f"{_FIRST_WORDS[options.command]} {', '.join(map(str, places))} ...")
    module = importlib.import_module(f"opticam_dask.cli.{_MODULES[options.command]}")
    command: Callable[[argparse.Namespace], int] = module.COMMANDS[options.command]
    try:
        return command(options)
    except _wrong_usage() as error:
        raise UsageError(one_line(error)) from error
    except _impossible() as error:
        raise RunError(one_line(error)) from error


# Python asks for these when something has failed, and not before: a command that goes well need not import all rooms.


def _wrong_usage() -> tuple[type[Exception], ...]:
    from opticam_dask.store.errors import StoreError

    return StoreError, ValueError, TypeError, FileNotFoundError, NotADirectoryError


def _impossible() -> tuple[type[Exception], ...]:
    from opticam_dask.cluster.cluster_settings import ClusterError
    from opticam_dask.pipeline.reduction import ReductionError
    from opticam_dask.store.ownership import OwnedError, OwnershipLost

    return ReductionError, ClusterError, OwnedError, OwnershipLost, OSError
