"""Commands about measured light curves: lightcurve, export, plot, report, browse."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from opticam_dask.cli.answers import answer
from opticam_dask.cli.exit_codes import DONE, RunError, UsageError, one_line
from opticam_dask.cluster.interruption import Interrupted
from opticam_dask.console import tell
from opticam_dask.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from opticam_dask.lightcurves.reading.columns import CurveArrays

# what one command needs is imported there: each of them is to answer at once


def lightcurve(options: argparse.Namespace) -> int:
    """Write differential light curves."""
    curves, prefix = asked_for(options)
    records = save_curves(options.out, curves, prefix)
    if options.json:
        answer({"light_curves": records})
    return DONE


def asked_for(options: argparse.Namespace) -> tuple[dict[str, CurveArrays], str]:
    """Light curves that were asked for, by camera key, and their name.

    Raises
    ------
    UsageError
        When options contradict each other.
    ValueError
        When there is no such camera, target or comparison.
    """
    from opticam_dask.lightcurves import targets

    store = Store.open(options.out)
    cameras = [store.camera(options.key)] if options.key else store.measured_cameras(options.label)
    prefix = targets.kept_name(options.prefix, options.target)
    is_auto = "auto" in options.comparisons
    if is_auto and len(options.comparisons) > 1:
        raise UsageError("--comparisons takes source numbers or auto, not both")
    comparisons: Any = "auto" if is_auto else options.comparisons
    if options.match_cameras and not options.key:
        raise UsageError("--match-cameras needs the camera that the numbers belong to (--key)")
    return _curves(options, [camera.key for camera in cameras], comparisons), prefix


def save_curves(out_directory: str, curves: Mapping[str, CurveArrays], prefix: str) -> list[dict[str, Any]]:
    """Write and draw light curves, keep them in the store, and tell about them.

    Returns
    -------
    list of dict
        What was said of each light curve, with its file and plot.
    """
    from opticam_dask.api import differential_photometer
    from opticam_dask.display import products
    from opticam_dask.lightcurves import differential

    records = list[dict[str, Any]]()
    for key, curve in curves.items():
        record = _curve_record(key, curve)
        records.append(record)
        for note in record["notes"]:
            tell(f"{key}: {note}")
        if not record["n_used"]:
            tell(f"{key}: no frame has all of the sources")
            continue
        tell(
            f"{key}: {record['n_used']} of {record['n_frames']} frames, median {record['median']:.5g}, "
            f"scatter {100 * record['scatter']:.2f} %, median error {100 * record['median_err']:.2f} %"
        )
        record["file"] = differential.write_relative_light_curve(curve, out_directory, prefix).resolve()
        record["plot"] = products.plot_relative_light_curve(out_directory, {key: curve}, prefix).resolve()
        tell(f"  {record['file']}")
        tell(f"  {record['plot']}")
    differential_photometer.keep_in_store(out_directory, curves.values(), prefix, tell)
    return records


def _curve_record(key: str, curve: CurveArrays) -> dict[str, Any]:
    """Summary of one light curve; ``scatter`` and ``median_err`` are shares of the median flux."""
    from opticam_dask.lightcurves.field.comparison_stars import describe_coverage

    flux, error = (curve[name].to_numpy() for name in ("relative_flux", "relative_flux_err"))
    is_used, detrended = np.isfinite(flux), json.loads(curve.attrs.get("detrend", "{}"))
    record: dict[str, Any] = {
        "key": key,
        "target": curve.attrs.get("target"),
        "comparisons": curve.attrs.get("comparisons"),
        "n_frames": len(flux),
        "n_used": int(np.count_nonzero(is_used)),
        "notes": [
            *detrended.get("warnings", []),
            *curve.attrs.get("choice", "").splitlines(),
            *describe_coverage(curve.attrs),
        ],
    }
    if record["n_used"]:
        median = float(np.nanmedian(flux))
        scatter, typical = float(np.nanstd(flux)) / median, float(np.nanmedian(error / flux))
        record |= {"median": median, "scatter": scatter, "median_err": typical}
    return record


def _curves(options: argparse.Namespace, keys: Sequence[str], comparisons: Any) -> dict[str, CurveArrays]:
    """Light curves that were asked for, by camera key."""
    from opticam_dask.api import differential_photometer
    from opticam_dask.lightcurves import differential

    names = ("weighting", "shared_trends", "detrend", "detrend_without", "outliers")
    how = differential.Comparing(**{name: getattr(options, name) for name in names})
    where = {name: getattr(options, name) for name in ("radius", "target_radius", "without")}
    curves = {
        key: differential.relative_curve(options.out, key, options.target, comparisons, options.label, how, **where)
        for key in keys
    }
    if options.match_cameras:
        others = differential_photometer.in_other_cameras(options.out, curves[keys[0]], tell)
        for key, numbers in others.items():
            curves[key] = differential.relative_curve(options.out, key, *numbers, options.label, how, **where)
    return curves


def export(options: argparse.Namespace) -> int:
    """Write light curves as tables, or stacks as images."""
    files = _stack_files(options) if options.stack else _tables(options)
    for directory in sorted({file.parent for file in files}):
        tell(f"{sum(file.parent == directory for file in files)} file(s) in {directory.resolve()}")
    return DONE


def _tables(options: argparse.Namespace) -> list[Path]:
    from opticam_dask.lightcurves import exports

    files = exports.export_light_curves(
        options.out, options.format, key=options.key, label=options.label, sources=options.sources
    )
    if options.sources is None:
        files += exports.export_differential(options.out, options.format, key=options.key)
    return files


def _stack_files(options: argparse.Namespace) -> list[Path]:
    from opticam_dask.display.stack_files import export_stacks

    if options.format != "fits":
        raise UsageError(f"a stack is an image: --format fits, got {options.format}")
    if options.label or options.sources:
        raise UsageError("--stack takes no --label and no --sources: a stack is that of a camera (--key)")
    return export_stacks(options.out, key=options.key)


def plot(options: argparse.Namespace) -> int:
    """Draw diagnostic plots."""
    from opticam_dask.display import diagnostics

    every = [kind for kind in diagnostics.KINDS if kind != "gifs"]
    chosen = options.kinds or every
    chosen = list(diagnostics.KINDS) if "all" in chosen else chosen
    if unknown := [kind for kind in chosen if kind not in diagnostics.KINDS]:
        raise UsageError(f"a plot is one of {', '.join(diagnostics.KINDS)} or all, got {', '.join(unknown)}")
    Store.open(options.out)
    n_files, reasons = 0, list[str]()
    for kind in chosen:
        try:
            files = diagnostics.plot(options.out, kind, label=options.label, targets=options.targets)
        except ValueError as error:
            # of many plots those that can be drawn are
            if len(chosen) == 1:
                raise
            reasons.append(one_line(error))
            tell(f"Not drawn: {kind}: {reasons[-1]}")
            continue
        for file in files:
            tell(f"Plot saved to {file.resolve()}.")
        n_files += len(files)
    if not n_files:
        raise RunError(f"nothing could be drawn: {reasons[0] if reasons else 'there is no source'}")
    return DONE


def report(options: argparse.Namespace) -> int:
    """Write the page about a reduction."""
    from opticam_dask.display.report import write_report

    tell("Writing the report ...")
    file = write_report(options.out, n_sources=options.n_sources)
    tell(f"Report: {file.resolve()} ({len(file.read_bytes()) / 1e6:.1f} MB)")
    return DONE


def browse(options: argparse.Namespace) -> int:
    """Serve the browser until Ctrl-C."""
    try:
        from opticam_dask.display.browser.server import browse as open_browser  # an extra
    except ImportError as error:
        raise RunError(one_line(error)) from error
    with open_browser(options.out, options.key, options.label, port=options.port) as browser:
        tell(f"Browse {options.out} at {browser.url}")
        tell("Ctrl-C ends it.")
        try:
            browser.wait()
        except Interrupted:  # nothing is lost by it
            tell("Closed.")
    return DONE


#: Commands of this module by name.
COMMANDS = {
    "lightcurve": lightcurve,
    "export": export,
    "plot": plot,
    "report": report,
    "browse": browse,
}
