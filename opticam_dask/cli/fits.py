"""Commands that make results of light curves: fit-transit, fit-eclipse, fit-sinusoid, submit."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

from opticam_dask.api import fits
from opticam_dask.cli.exit_codes import DONE, RunError, one_line
from opticam_dask.cli.results import asked_for, save_curves
from opticam_dask.console import Console
from opticam_dask.lightcurves.fitting.eclipses import fit_eclipse
from opticam_dask.lightcurves.fitting.outcome import describe
from opticam_dask.lightcurves.fitting.sinusoids import fit_sinusoid
from opticam_dask.lightcurves.fitting.transits import fit_transit
from opticam_dask.lightcurves.submission.writing import write_submission
from opticam_dask.parameters import Parameter
from opticam_dask.result_parameters import ECLIPSE, SINUSOID, SUBMISSION, TRANSIT


def _command(
    function: Callable[..., xr.Dataset], table: Mapping[str, Parameter]
) -> Callable[[argparse.Namespace], int]:
    def command(options: argparse.Namespace) -> int:
        """Fit the light curve of a target and say what was found."""
        values: dict[str, Any] = {name: getattr(options, name) for name in table}
        for name, entry in table.items():
            for value in values[name] if isinstance(values[name], list) else [values[name]]:
                # the range is that of the value; its error may be anything
                if entry.n_values != "+":
                    entry.check(name, value)
        curves, prefix = asked_for(options)
        save_curves(options.out, curves, prefix)
        tell = Console(prefix="").tell
        try:
            fit = function(curves, **values)
        except ImportError as error:
            raise RunError(one_line(error)) from error
        for line in describe(fit):
            tell(line)
        for file in fits.save_fit(fit, options.out, prefix, tell):
            tell(f"  {file.resolve()}")
        return DONE

    return command


def submit(options: argparse.Namespace) -> int:
    """Write files for an archive."""
    values = {name: getattr(options, name) for name in SUBMISSION}
    values["leave_out"] = tuple(values["leave_out"])
    for file in write_submission(options.out, options.format, **values):
        Console(prefix="").tell(f"Keeps the rules of {options.format}: {file.resolve()}")
    return DONE


#: Commands of this module by name.
COMMANDS = {
    "fit-transit": _command(fit_transit, TRANSIT),
    "fit-eclipse": _command(fit_eclipse, ECLIPSE),
    "fit-sinusoid": _command(fit_sinusoid, SINUSOID),
    "submit": submit,
}
