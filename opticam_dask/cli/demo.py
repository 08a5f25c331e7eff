"""The demonstration: simulate three cameras, reduce, find the variable source, and say where to look."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import xarray as xr

from opticam_dask.api import differential_photometer
from opticam_dask.api.reducer import Reducer
from opticam_dask.cluster.connections import Connection
from opticam_dask.console import Console
from opticam_dask.display import products, report
from opticam_dask.frames.simulation import synthetic
from opticam_dask.kernels.series.lightcurve import Peak, fit_sinusoid, lomb_scargle_peak
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.lightcurves import differential, results
from opticam_dask.lightcurves.field import variables
from opticam_dask.store.camera import Camera
from opticam_dask.store.store import Store

#: A variation or a peak that noise makes with more than this probability is not called one.
_BY_CHANCE = 1e-3

#: With fewer points a sinusoid of any frequency fits noise.
_LEAST_FRAMES = 8


def run_demo(directory: str | Path, n_images: int = 100, *, client: Connection | None = None) -> None:
    """Run the demonstration in ``directory``.

    Parameters
    ----------
    directory : path
        Frames go to ``frames``, results to ``reduced`` below it.
    n_images : int
        Frames of each camera.
    client : Connection, optional
        Where blocks run, see :func:`opticam_dask.connect`.
    """
    began = time.monotonic()
    root = Path(directory)
    console = Console(prefix="")
    console.tell(f"Simulating {n_images} frames of three cameras ...")
    if client is not None:
        client.begin()  # its processes import while frames are simulated
    synthetic.generate_observations(root / "frames", n_images=n_images)
    reducer = Reducer(
        root / "reduced",
        root / "frames",
        client=client,
        show_plots=False,
        prefix="",
    )
    reducer.reduce()
    _summarise(root / "reduced", n_images, console)
    console.tell(f"Done in {time.monotonic() - began:.0f} s.")


def _summarise(out: Path, n_images: int, console: Console) -> None:
    truth = synthetic.observation_truth(n_images=n_images)
    store = Store.open(out)
    measured = {key: results.light_curves(out, key).load() for key in store.measured_keys("aperture")}
    console.tell("")
    if measured:
        first = next(iter(measured))
        target = find_variable(measured[first], _simulated_variable(store.camera(first), truth), console)
        curves = relative_curves(measured, target)
        for curve in curves.values():
            differential.write_relative_light_curve(curve, out, "variable")
        plot = products.plot_relative_light_curve(out, curves, "variable")
        differential_photometer.keep_in_store(out, curves.values(), "variable", console.tell)
        for line in describe_variation(curves, truth.attrs["frequency"]):
            console.tell(line)
        console.tell("")
        console.tell(f"Light curve: {plot.resolve()}")
    console.tell(f"Catalogues:  {(out / 'cat' / 'catalogs.pdf').resolve()}")
    console.tell(f"Store:       {(out / 'reduction.zarr').resolve()}")
    console.tell(f"Report:      {report.write_report(out).resolve()}")


def _simulated_variable(camera: Camera, truth: xr.Dataset) -> int:
    """Number in the catalogue of the source that was simulated to vary: the nearest to its mean position."""
    found = camera.catalog.read_all()
    place = truth.sel(source=truth["source_id"] == truth.attrs["variable_source"])
    away = np.hypot(found["x"] - float(place["x"].mean()), found["y"] - float(place["y"].mean()))
    return int(found["source_id"][int(np.argmin(away))])


def find_variable(curves: xr.Dataset, simulated: int, console: Console) -> int:
    """Number of the source that varies; the simulated one where the frames are too few to tell."""
    told = f"The light curve is that of the source that was simulated to vary, number {simulated}."
    try:
        number = variables.most_variable(curves)
        chance = variables.chance_of_variation(curves, number)
    except ValueError as error:
        console.tell(f"Which source varies cannot be told: {error}. {told}")
        return simulated
    if chance > _BY_CHANCE:
        n_frames = curves.sizes["frame"]
        console.tell(f"Which source varies cannot be told from {n_frames} frames: none does beyond its errors. {told}")
        return simulated
    console.tell(f"The variable source is number {number} in the catalogue.")
    return number


def relative_curves(measured: dict[str, xr.Dataset], target: int) -> dict[str, xr.Dataset]:
    """Light curves of a target against all other sources that are measured in most frames, by camera key."""
    curves = {}
    for key, one in measured.items():
        comparisons = [number for number in variables.often_measured(one) if number != target]
        if comparisons and target in one["source_id"].to_numpy():
            curves[key] = differential.compute_relative(one, target, comparisons)
    return curves


def describe_variation(curves: dict[str, xr.Dataset], simulated: float) -> list[str]:
    """Frequency, amplitudes and phases of the light curves in words, or why they are not known.

    Parameters
    ----------
    curves : dict of Dataset
        Relative light curves by camera key.
    simulated : float
        Frequency that was simulated, Hz.
    """
    if not curves:
        return ["No camera has a light curve: the target or its comparisons were not measured."]
    first = next(iter(curves.values()))
    lines = []
    peak = _measured_frequency(first)
    if peak is None:
        n_frames, span = _coverage(first)
        lines.append(
            f"Its frequency cannot be measured: too few frames, {n_frames} over {span:.0f} s (simulated: "
            f"{simulated:g} Hz, a period of {1.0 / simulated:.1f} s)."
        )
        if n_frames < _LEAST_FRAMES or span * simulated < 1.0:
            return [*lines, "Amplitudes and phases need at least one period."]
        lines.append("At the simulated frequency:")
    else:
        lines.append(
            f"Its frequency is {peak.frequency:.4f} Hz (simulated: {simulated:g} Hz), "
            f"false-alarm probability {peak.false_alarm_probability:.1e}."
        )
    return [*lines, *_phases(curves, simulated if peak is None else peak.frequency)]


def _seconds(curve: xr.Dataset) -> np.ndarray:
    times = curve["bmjd_tdb"].to_numpy()
    return (times - np.nanmin(times)) * SECONDS_PER_DAY


def _coverage(curve: xr.Dataset) -> tuple[int, float]:
    """Frames with a relative flux, and the seconds from the first to the last."""
    times = _seconds(curve)[np.isfinite(curve["relative_flux"].to_numpy())]
    return len(times), float(round(np.ptp(times), 3)) if len(times) else 0.0


def _measured_frequency(curve: xr.Dataset) -> Peak | None:
    """Highest peak of the periodogram; None where it may be chance, or noise has more freedom than there are points."""
    if _coverage(curve)[0] < _LEAST_FRAMES:
        return None
    flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
    peak = lomb_scargle_peak(_seconds(curve), flux, error)
    return peak if peak.false_alarm_probability < _BY_CHANCE else None


def _phases(curves: dict[str, xr.Dataset], frequency: float) -> list[str]:
    lines: list[str] = []
    first: float | None = None
    for key, curve in curves.items():
        if _coverage(curve)[0] < _LEAST_FRAMES:
            lines.append(f"  {key}: too few frames")
            continue
        flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
        fit = fit_sinusoid(_seconds(curve), flux, error, frequency)
        first = fit.phase if first is None else first
        lag = np.mod(fit.phase - first + np.pi / 4, 2 * np.pi) - np.pi / 4
        lines.append(
            f"  {key}: amplitude {100 * fit.amplitude:.2f} +- {100 * fit.amplitude_err:.2f} %, "
            f"phase against {next(iter(curves))} {lag:.2f} +- {fit.phase_err:.2f} rad"
        )
    return lines
