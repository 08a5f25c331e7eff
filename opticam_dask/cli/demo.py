"""The demonstration: simulate three cameras, reduce, find the variable source, and say where to look."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import xarray as xr

from opticam_dask.api import differential_photometer
from opticam_dask.api.reducer import Reducer
from opticam_dask.cluster.executors import Connection
from opticam_dask.console import Console
from opticam_dask.display import products, report
from opticam_dask.frames import synthetic
from opticam_dask.kernels.series.lightcurve import fit_sinusoid, lomb_scargle_peak
from opticam_dask.lightcurves import differential, results
from opticam_dask.store import layout

_SECONDS_PER_DAY = 86400.0


def run_demo(directory: str | Path, n_images: int = 100, *, client: Connection | None = None) -> None:
    """Run the demonstration in ``directory``.

    Parameters
    ----------
    directory : path
        Frames go to ``frames``, results to ``reduced`` below it.
    n_images : int
        Frames of each camera.
    client : Connection, optional
        Where blocks run, see ``executors.connect``.
    """
    began = time.monotonic()
    root = Path(directory)
    console = Console(prefix="")
    console.tell(f"Simulating {n_images} frames of three cameras ...")
    synthetic.generate_observations(root / "frames", n_images=n_images)
    reducer = Reducer(
        root / "reduced",
        root / "frames",
        client=client,
        show_plots=False,
        prefix="",
    )
    reducer.create_catalogs()
    reducer.photometry()
    _summarise(root / "reduced", n_images, console)
    console.tell(f"Done in {time.monotonic() - began:.0f} s.")


def _summarise(out: Path, n_images: int, console: Console) -> None:
    truth = synthetic.observation_truth(n_images=n_images)
    keys = layout.keys(layout.require_store(out))
    target = differential.most_variable(results.light_curves(out, keys[0]))
    comparisons = [int(i) for i in results.light_curves(out, keys[0])["source_id"].to_numpy() if i != target]
    curves = {key: differential.relative_light_curve(out, key, target, comparisons) for key in keys}
    for curve in curves.values():
        differential.write_relative_light_curve(curve, out, "variable")
    plot = products.plot_relative_light_curve(out, curves, "variable")
    differential_photometer.keep_in_store(out, curves.values(), "variable", console.tell)
    console.tell("")
    console.tell(f"The variable source is number {target} in the catalogue.")
    frequency = _report_frequency(curves[keys[0]], truth, console)
    _report_phases(curves, frequency, console)
    console.tell("")
    console.tell(f"Light curve: {plot.resolve()}")
    console.tell(f"Catalogues:  {(out / 'cat' / 'catalogs.pdf').resolve()}")
    console.tell(f"Store:       {(out / 'reduction.zarr').resolve()}")
    console.tell(f"Report:      {report.write_report(out).resolve()}")


def _seconds(curve: xr.Dataset) -> np.ndarray:
    times = curve["bmjd_tdb"].to_numpy()
    return (times - np.nanmin(times)) * _SECONDS_PER_DAY


def _report_frequency(curve: xr.Dataset, truth: xr.Dataset, console: Console) -> float:
    flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
    peak = lomb_scargle_peak(_seconds(curve), flux, error)
    console.tell(
        f"Its frequency is {peak.frequency:.4f} Hz (simulated: {truth.attrs['frequency']:g} Hz), "
        f"false-alarm probability {peak.false_alarm_probability:.1e}."
    )
    return float(peak.frequency)


def _report_phases(curves: dict[str, xr.Dataset], frequency: float, console: Console) -> None:
    first: float | None = None
    for key, curve in curves.items():
        flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
        fit = fit_sinusoid(_seconds(curve), flux, error, frequency)
        first = fit.phase if first is None else first
        lag = np.mod(fit.phase - first + np.pi / 4, 2 * np.pi) - np.pi / 4
        console.tell(
            f"  {key}: amplitude {100 * fit.amplitude:.2f} +- {100 * fit.amplitude_err:.2f} %, "
            f"phase against {next(iter(curves))} {lag:.2f} +- {fit.phase_err:.2f} rad"
        )
