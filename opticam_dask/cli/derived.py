"""Commands that derive results from light curves: fit-transit, fit-eclipse, fit-sinusoid, magnitudes, submit."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

from opticam_dask.api import kept_fits
from opticam_dask.api.differential_photometer import keep_in_store
from opticam_dask.cli.exit_codes import DONE, RunError, one_line
from opticam_dask.cli.results import asked_for, save_curves
from opticam_dask.console import tell
from opticam_dask.lightcurves import targets
from opticam_dask.lightcurves.field.magnitudes import describe_magnitudes, magnitudes, write_magnitudes
from opticam_dask.lightcurves.fitting.eclipses import fit_eclipse
from opticam_dask.lightcurves.fitting.outcome import describe
from opticam_dask.lightcurves.fitting.sinusoids import fit_sinusoid
from opticam_dask.lightcurves.fitting.transits import fit_transit
from opticam_dask.lightcurves.submission.writing import write_submission
from opticam_dask.parameters import Parameter
from opticam_dask.result_parameters import ECLIPSE, MAGNITUDES, SINUSOID, SUBMISSION, TRANSIT
from opticam_dask.store.store import Store


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
        tell(f"Fitting {len(curves)} light curve{'s' * (len(curves) != 1)} ...")
        try:
            fit = function({key: curve.to_xarray() for key, curve in curves.items()}, **values)
        except ImportError as error:
            raise RunError(one_line(error)) from error
        for line in describe(fit):
            tell(line)
        for file in kept_fits.save_fit(fit, options.out, prefix, tell):
            tell(f"  {file.resolve()}")
        return DONE

    return command


def calibrate_magnitudes(options: argparse.Namespace) -> int:
    """Write light curves in magnitudes."""
    store = Store.open(options.out)
    cameras = [store.camera(options.key)] if options.key else store.measured_cameras(options.label)
    prefix = targets.kept_name(options.prefix, options.target)
    names = [name for name in MAGNITUDES if name not in ("key", "prefix", "target")]
    for name in ("target_colour", "limit_sigma"):
        MAGNITUDES[name].check(name, getattr(options, name))
    how = {name: getattr(options, name) for name in names}
    curves = [magnitudes(options.out, camera.key, options.target, **how) for camera in cameras]
    for curve in curves:
        for line in describe_magnitudes(curve):
            tell(f"{curve.attrs['key']}: {line}")
        tell(f"  {write_magnitudes(curve, options.out, prefix).resolve()}")
    keep_in_store(options.out, curves, prefix, tell)
    return DONE


def submit(options: argparse.Namespace) -> int:
    """Write files for an archive."""
    values = {name: getattr(options, name) for name in SUBMISSION}
    for file in write_submission(options.out, options.format, **values):
        tell(f"Keeps the rules of {options.format}: {file.resolve()}")
    return DONE


#: Commands of this module by name.
COMMANDS = {
    "fit-transit": _command(fit_transit, TRANSIT),
    "fit-eclipse": _command(fit_eclipse, ECLIPSE),
    "fit-sinusoid": _command(fit_sinusoid, SINUSOID),
    "magnitudes": calibrate_magnitudes,
    "submit": submit,
}
