"""What each command of the command line does; imported only when a command runs, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import config, locations, schema
from opticam_dask.api import differential_photometer, job_arrays, planned_run, repair, submission, watch
from opticam_dask.api.reducer import Reducer, check_label
from opticam_dask.cli import demo
from opticam_dask.cli.exit_codes import DONE, FAILED, RunError, UsageError
from opticam_dask.cluster import executors, job_queues
from opticam_dask.cluster.cluster_settings import SYSTEMS, ClusterSettings, resolve
from opticam_dask.cluster.interruption import Interrupted, raise_if_interrupted
from opticam_dask.console import Console
from opticam_dask.display import diagnostics, products, report, status
from opticam_dask.frames import scanning, synthetic
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.lightcurves import differential, exports, results
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground
from opticam_dask.methods.photometer_kinds import PHOTOMETERS
from opticam_dask.methods.photometers import BasePhotometer
from opticam_dask.passes.calibration import KINDS, PLURAL, Calibration, find_calibration_frames
from opticam_dask.pipeline import nights
from opticam_dask.pipeline.driver import Changes, ReductionError, Setup, check_parameters
from opticam_dask.store import integrity, layout, migrations, ownership
from opticam_dask.text import printable


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for; turn what a user can do wrong into one line.

    Raises
    ------
    UsageError, RunError
    """
    command: Callable[[argparse.Namespace], int] = globals()[f"_{options.run}"]
    try:
        return command(options)
    except (layout.StoreError, ValueError, TypeError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(_line(error)) from error
    except (
        ReductionError,
        executors.ClusterError,
        ownership.OwnedError,
        ownership.OwnershipLost,
        OSError,
    ) as error:
        raise RunError(_line(error)) from error


def _cluster(options: argparse.Namespace) -> int:
    settings = _settings(options)
    tell = Console(prefix="").tell
    if options.dry_run:
        if not settings.is_batch:
            raise UsageError(f"{settings.cluster!r} submits no jobs: --dry-run is for {', '.join(SYSTEMS)}")
        for line in job_queues.job_script(settings).splitlines():
            tell(line)
        return DONE
    with executors.connect(settings, tell=tell) as place:
        if place.client is None:
            raise UsageError("there is nothing to keep open without a cluster")
        tell(f"Scheduler: {place.client.scheduler.address} (--cluster takes this address). Ctrl-C closes the cluster.")
        while True:
            time.sleep(1)
            raise_if_interrupted()
            if place.jobs is not None:
                place.jobs.check()


#: Options that say where blocks run, as ``cluster_settings.resolve`` names them.
_PLACE = ("cluster", "n_workers", "adapt", "cores", "memory", "walltime", "queue", "account", "job_extra")


def _settings(options: argparse.Namespace) -> ClusterSettings:
    return resolve(**{name: getattr(options, name) for name in _PLACE})


def _connect(options: argparse.Namespace, out: str | Path, **more: Any) -> executors.Connection:
    """The place where the blocks of a command run; it is opened when the first block does."""
    tell = Console(prefix="").tell
    return executors.connect(_settings(options), log_directory=_job_logs(out), tell=tell, **more)


def _job_logs(out: str | Path) -> Path | None:
    """Where the output of jobs goes; the usual place below this directory when the store is no directory."""
    return None if locations.is_remote(out) else Path(out).resolve() / "jobs"


def _submit_inside(options: argparse.Namespace) -> int:
    """Submit this very command as a job."""
    settings = _settings(options)
    if not settings.is_batch:
        raise UsageError(f"--inside needs a batch system ({', '.join(SYSTEMS)}), got {settings.cluster!r}")
    job_queues.JobQueue(settings)  # refuses now what the job would refuse
    command = [sys.executable, "-m", "opticam_dask.cli", *options.arguments]
    _, lines = job_queues.submit_inside(settings, command, _job_logs(options.out))
    for line in lines:
        Console(prefix="").tell(line)
    Console(prefix="").tell(f"How far?    opticam-dask status {shlex.quote(options.out)}")
    return DONE


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename or ''}: {error.strerror}".lstrip(": "))
    return printable(str(error).strip())


def _demo(options: argparse.Namespace) -> int:
    locations.require_local(options.directory, "demo")
    with contextlib.closing(_connect(options, Path(options.directory) / "reduced")) as place:
        demo.run_demo(options.directory, options.n_images, client=place)
    return DONE


def _generate(options: argparse.Namespace) -> int:
    locations.require_local(options.directory, "generate")
    common = {
        "binning_scale": options.binning_scale,
        "overwrite": options.overwrite,
        "seed": options.seed,
        "compress": options.compress,
    }
    if options.flats:
        synthetic.generate_flats(options.directory, n_flats=options.n_images, **common)
    elif options.gaps:
        synthetic.generate_gappy_observations(options.directory, n_images=options.n_images, **common)
    else:
        synthetic.generate_observations(options.directory, n_images=options.n_images, **common)
    Console(prefix="").tell(f"Frames are in {Path(options.directory).resolve()}.")
    return DONE


def _check(options: argparse.Namespace) -> int:
    instrument = _instrument(options)
    found = scanning.scan(scanning.find_files(options.data), instrument)
    tell = Console(prefix="").tell
    tell(f"Instrument {instrument.name}: {len(found.table)} usable frame(s), {len(found.set_aside)} set aside.")
    for line in status.describe_scan(found):
        tell(line)
    shown = found.set_aside if options.problems == 0 else found.set_aside[: options.problems]
    for file, reason in shown:
        tell(f"  set aside: {file}: {reason}")
    if len(shown) < len(found.set_aside):
        tell(f"  ... and {len(found.set_aside) - len(shown)} more (--problems 0 lists all)")
    return DONE if len(found.table) else FAILED


def _watch(options: argparse.Namespace) -> int:
    for place in (options.out, *options.data):
        locations.require_local(place, "watch")
    parameters = config.parameters_from_mapping(_parameters(options))
    if options.inside and not os.environ.get(job_queues.INSIDE):
        return _submit_inside(options)
    instrument = _instrument(options)
    setup = Setup(
        Path(options.out),
        instrument,
        parameters,
        frames_per_block=options.frames_per_block,
        calibration=_calibration(options, instrument),
    )
    photometer = _photometers(options)[0]
    if len(photometer.radii) > 1:
        raise UsageError("watch follows one aperture: give one --radius")
    if (options.target is None) != (not options.comparisons):
        raise UsageError("a light curve needs both --target and --comparisons")
    _check_watch(options, setup)
    tell = Console(prefix="").tell
    how = {name: getattr(options, name) for name in ("target", "comparisons", "n_first", "patience")}
    with _owned(options):
        with _connect(options, options.out, **_frame_timeout(options)) as executor:
            live = watch.Watch(options.data, setup, photometer, executor, Console(prefix=""), **how)
            tell(f"Watching {', '.join(map(str, options.data))}; live files are in {live.directory.resolve()}.")
            live.run(idle=options.idle, n_frames=options.n_frames)
        live.close()
        tell("The observation is over: reducing it from the beginning.")
        status_of_reduction = _reduce(options)
        for key in live.keys:
            _final_light_curve(options, live, key)
    return status_of_reduction


def _calibration(options: argparse.Namespace, instrument: Instrument) -> Calibration | None:
    """Calibration frames that were asked for."""
    given = {kind: getattr(options, PLURAL[kind]) for kind in KINDS}
    found = [find_calibration_frames(kind, paths, instrument) for kind, paths in given.items() if paths]
    return Calibration.of(*found)


def _check_watch(options: argparse.Namespace, setup: Setup) -> None:
    """Refuse at once what the ordinary reduction would refuse in the end, hours later."""
    live = (Path(options.out) / watch.WATCH_NAME).resolve()
    for data in map(Path, options.data):
        if not data.exists():
            raise UsageError(f"expected a directory, but there is none at {data}")
        if data.resolve() == live or live in data.resolve().parents:
            raise UsageError(f"{data} is where the live files go: choose another --out")
        for calibration in (path for kind in KINDS for path in getattr(options, PLURAL[kind]) or ()):
            if data.resolve() in (Path(calibration).resolve(), *Path(calibration).resolve().parents):
                raise UsageError(f"{calibration} is below {data}, where frames land: keep calibration frames elsewhere")
    if layout.exists(options.out) and not options.new:
        check_parameters(setup)
        tops = [data.resolve() for data in map(Path, options.data)]
        known = [Path(layout.read_attributes(setup.path, part.group)["data_root"]).resolve()
                 for key in layout.keys(setup.path) for part in layout.parts(setup.path, key)]  # fmt: skip
        is_same = any(root == top or top in root.parents or root in top.parents for root in known for top in tops)
        if known and not (is_same or options.append):
            raise UsageError(
                f"{options.out} holds a reduction of other frames (in {known[0]}). Add --append to take these up as "
                "further nights of the same field, --new to begin again, or use another output directory."
            )


def _final_light_curve(options: argparse.Namespace, live: watch.Watch, key: str) -> None:
    """The light curve of the live target from the ordinary reduction, in whose catalogue it may bear another number."""
    label = options.label or _photometers(options)[0].label
    final = layout.read_product(layout.require_store(options.out), f"{layout.group_name(key)}/catalog")
    wanted = [options.target, *options.comparisons]
    numbers = live.final_numbers(key, wanted, final)
    tell = Console(prefix="").tell
    for number in wanted:
        if number not in numbers:
            tell(f"{key}: source {number} of the live catalogue is not in the catalogue.")
        elif numbers[number] != number:
            tell(f"{key}: source {number} of the live catalogue is source {numbers[number]} of the catalogue.")
    if len(numbers) == len(wanted):
        target, comparisons = numbers[options.target], [numbers[number] for number in options.comparisons]
        curve = differential.relative_light_curve(options.out, key, target, comparisons, label)
        tell(f"{key}: {differential.write_relative_light_curve(curve, options.out, f'target_{target}').resolve()}")


def _reduce(options: argparse.Namespace) -> int:
    parameters = config.parameters_from_mapping(_parameters(options))
    photometers = _photometers(options)
    if options.inside and not os.environ.get(job_queues.INSIDE):
        return _submit_inside(options)
    with _owned(options), contextlib.closing(_connect(options, options.out, **_frame_timeout(options))) as place:
        reducer = _reducer(options, parameters, place)
        reducer._goes_on = True  # photometry belongs to the same command
        rest = {name: getattr(parameters, name) for name in config.parameter_names() if name not in _CONSTRUCTOR}
        changes = {name: getattr(options, name) for name in ("new", "append", "redo", "rebuild_reference")}
        reducer.create_catalogs(**rest, **changes)
        reducer.photometry(photometers, label=options.label)
    for line in status.describe_reduction(options.out, n_problems=5):
        Console(prefix="").tell(line)
    return DONE


def _plan(options: argparse.Namespace) -> int:
    # what is piped into a shell must be nothing but commands
    with contextlib.redirect_stdout(sys.stderr) if options.slurm else contextlib.nullcontext():
        run = _planned(options)
        if run is None:
            Console(prefix="").tell("Everything is done already: there is nothing to submit.")
            return DONE
        lines = [] if options.data else job_arrays.describe_run(options.out)
        for line in lines or job_arrays.describe_plan(run):
            Console(prefix="").tell(line)
    if options.slurm:
        for line in submission.slurm_lines(run, shlex.split(options.slurm_options)):
            Console(prefix="").tell(line)
    return DONE


def _planned(options: argparse.Namespace) -> planned_run.PlannedRun | None:
    """The run that is planned now, or, without frames, the one that was; None when nothing is left to do."""
    locations.require_local(options.out, "plan")
    if not options.data:
        _refuse_what_only_planning_takes(options)
        return job_arrays.take_up(options.out)
    if options.memory:
        raise UsageError(f"jobs get their memory where they are submitted: --slurm-options=--mem={options.memory}")
    parameters = config.parameters_from_mapping(_parameters(options))
    photometers = _photometers(options)
    # the jobs are the user's to submit, whatever batch system the configuration names: each has workers of its own
    options.cluster = options.cluster or "local"
    place = _settings(options)
    with _owned(options) as owner:
        reducer = _reducer(options, parameters, executors.connect("none"))
        return job_arrays.plan(
            reducer._setup(parameters),
            reducer.scan,
            {options.label or photometer.label: photometer for photometer in photometers},
            owner,
            Console(prefix=""),
            changes=Changes(options.new, options.append, tuple(options.redo), options.rebuild_reference),
            calibration={kind: paths for kind in KINDS if (paths := getattr(options, PLURAL[kind]))},
            cluster=place.cluster,
            n_workers=place.n_workers or 1,
            blocks_per_job=options.blocks_per_job,
            **_frame_timeout(options),
        )


def _refuse_what_only_planning_takes(options: argparse.Namespace) -> None:
    """Options that the run which was planned has its own values of."""
    names = [*_PLACE, "blocks_per_job", "frame_timeout", "break_lock", "append", "redo", "rebuild_reference", "new"]
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)]:
        raise UsageError(
            f"without DATA the run that was planned in {options.out} goes on as it was planned: {', '.join(given)} "
            "would change nothing. Give DATA to plan again."
        )


def _work(options: argparse.Namespace) -> int:
    run, console = planned_run.read(options.out), Console(prefix="")
    job_arrays.require_plan(run, options.plan)
    chosen = planned_run.parse_ranges(options.blocks) if options.blocks is not None else None
    if options.job is not None:
        chosen = job_arrays.ranges_of_job(run, options.number, options.job, options.blocks_per_job)
    outcome = job_arrays.work(run, options.number, chosen, _workers(options, run), console)
    if outcome is None:
        console.tell("These blocks are done already.")
        return DONE
    for file, message in outcome.problems:
        console.tell(f"Set aside: {Path(file).name}: {message}")
    console.tell(f"Pass {options.number}: {sum(outcome.n_frames.values())} frames done.")
    return DONE


def _finish(options: argparse.Namespace) -> int:
    run, console = planned_run.read(options.out), Console(prefix="")
    job_arrays.require_plan(run, options.plan)
    lines = job_arrays.finish(run, options.number, _workers(options, run), console, break_lock=options.break_lock)
    for line in lines or [f"Pass {options.number} is finished already."]:
        console.tell(line)
    return DONE


def _workers(options: argparse.Namespace, run: planned_run.PlannedRun) -> job_arrays.Connect:
    """Opens the workers of one job."""
    return functools.partial(
        executors.connect,
        options.cluster or run.cluster,
        n_workers=options.n_workers or run.n_workers,
        dashboard=False,
        frame_timeout=run.frame_timeout,
    )


def _photometers(options: argparse.Namespace) -> list[BasePhotometer]:
    """Photometers that were asked for."""
    names = list(dict.fromkeys(options.photometer))
    if options.label is not None and len(names) > 1:
        raise UsageError(f"--label names one photometer, but {len(names)} were asked for")
    if (options.radius or options.radius_unit) and "aperture" not in names:
        raise UsageError("--radius and --radius-unit are for --photometer aperture")
    estimator = DefaultLocalBackground() if options.annulus else None
    shared = {"forced": options.forced, "local_background_estimator": estimator}
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    if options.radius:
        own["aperture"]["radius"] = options.radius[0] if len(options.radius) == 1 else tuple(options.radius)
    if options.radius_unit:
        own["aperture"]["radius_unit"] = options.radius_unit
    try:
        photometers = [PHOTOMETERS[name](**shared, **own[name]) for name in names]
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    for photometer in photometers:
        check_label(options.label or photometer.label)
    return photometers


#: Parameters of the reduction that the constructor of ``Reducer`` takes.
_CONSTRUCTOR = ("threshold", "barycenter", "rebin_factor", "remove_cosmic_rays", "target_coord")


def _reducer(
    options: argparse.Namespace, parameters: config.ReductionParameters, place: executors.Connection
) -> Reducer:
    return Reducer(
        options.out,
        options.data,
        instrument=_instrument(options),
        client=place,
        frames_per_block=options.frames_per_block,
        show_plots=False,
        prefix="",
        **_frame_timeout(options),
        **{PLURAL[kind]: getattr(options, PLURAL[kind]) for kind in KINDS},
        **{name: getattr(parameters, name) for name in _CONSTRUCTOR},
    )


def _frame_timeout(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.frame_timeout is None else {"frame_timeout": options.frame_timeout}


@contextlib.contextmanager
def _owned(options: argparse.Namespace) -> Iterator[ownership.Owner]:
    """Own the output directory for as long as a command works on it."""
    try:
        locations.location(options.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{options.out} cannot be made: {error.strerror or error}. Choose another --out.") from error
    with ownership.own(options.out, break_lock=options.break_lock) as owner:
        yield owner


def _remove(options: argparse.Namespace) -> int:
    layout.require_store(options.out)
    with _owned(options):
        for line in nights.remove_night(options.out, options.night):
            Console(prefix="").tell(line)
    return DONE


def _status(options: argparse.Namespace) -> int:
    tell = Console(prefix="").tell
    if options.provenance or options.files:
        for line in json.dumps(results.provenance(options.out, files=options.files), indent=2).splitlines():
            tell(line)
        return DONE
    for line in status.describe_reduction(options.out, n_problems=options.problems or None):
        tell(line)
    for line in job_arrays.describe_run(options.out):
        tell(line)
    return DONE


def _plot(options: argparse.Namespace) -> int:
    tell = Console(prefix="").tell
    every = [kind for kind in diagnostics.KINDS if kind != "gifs"]
    chosen = options.kinds or every
    chosen = list(diagnostics.KINDS) if "all" in chosen else chosen
    if unknown := [kind for kind in chosen if kind not in diagnostics.KINDS]:
        raise UsageError(f"a plot is one of {', '.join(diagnostics.KINDS)} or all, got {', '.join(unknown)}")
    layout.require_store(options.out)
    n_files, reasons = 0, list[str]()
    for kind in chosen:
        try:
            files = diagnostics.plot(options.out, kind, label=options.label, targets=options.targets)
        except ValueError as error:
            # of many plots those that can be drawn are
            if len(chosen) == 1:
                raise
            reasons.append(_line(error))
            tell(f"Not drawn: {kind}: {reasons[-1]}")
            continue
        for file in files:
            tell(f"Plot saved to {file.resolve()}.")
        n_files += len(files)
    if not n_files:
        raise RunError(f"nothing could be drawn: {reasons[0] if reasons else 'there is no source'}")
    return DONE


def _browse(options: argparse.Namespace) -> int:
    try:
        from opticam_dask.display.browser import browse  # an extra
    except ImportError as error:
        raise RunError(_line(error)) from error
    tell = Console(prefix="").tell
    with browse(options.out, options.key, options.label, port=options.port) as browser:
        tell(f"Browse {options.out} at {browser.url}")
        tell("Ctrl-C ends it.")
        try:
            browser.wait()
        except Interrupted:  # nothing is lost by it
            tell("Closed.")
    return DONE


def _report(options: argparse.Namespace) -> int:
    file = report.write_report(options.out, n_sources=options.n_sources)
    Console(prefix="").tell(f"Report: {file.resolve()} ({len(file.read_bytes()) / 1e6:.1f} MB)")
    return DONE


def _verify(options: argparse.Namespace) -> int:
    path = layout.require_store(options.out)
    tell = Console(prefix="").tell
    if layout.schema_version(path) != schema.SCHEMA_VERSION:
        tell(f"Schema version {layout.schema_version(path)}: opticam-dask migrate {options.out} brings it up to date.")
    if options.repair:
        _repair(options)
    if options.against is not None:
        lines = layout.compare(path, layout.require_store(options.against))
        good = f"{options.out} and {options.against} hold the same bits."
    else:
        damage = integrity.find_damage(path)
        lines = [str(entry) for entry in damage] or status.unfinished(path)
        if damage:
            lines.append(
                f"{len(damage)} thing(s) damaged: opticam-dask verify {options.out} --repair makes them again."
            )
        elif stray := integrity.stray_files(path):
            tell(f"{len(stray)} temporary file(s) of interrupted writes, which do no harm; --repair removes them.")
        good = f"{options.out} is whole."
    for line in lines:
        tell(line)
    if not lines:
        tell(good)
    return FAILED if lines else DONE


def _repair(options: argparse.Namespace) -> None:
    def connect() -> contextlib.AbstractContextManager[executors.Executor]:
        return _connect(options, options.out)

    with _owned(options):
        repair.repair(options.out, connect, Console(prefix=""))


def _migrate(options: argparse.Namespace) -> int:
    layout.require_store(options.out)
    with _owned(options):
        lines = migrations.migrate(options.out)
    for line in lines or [f"{options.out} is of the present version."]:
        Console(prefix="").tell(line)
    return DONE


def _lightcurve(options: argparse.Namespace) -> int:
    path = layout.require_store(options.out)
    tell = Console(prefix="").tell
    keys = [options.key] if options.key else layout.measured_keys(path, options.label)
    if not keys:
        raise ValueError(f"no camera key of {options.out} has photometry {options.label!r}")
    prefix = options.prefix or f"target_{options.target}"
    is_auto = "auto" in options.comparisons
    if is_auto and len(options.comparisons) > 1:
        raise UsageError("--comparisons takes source numbers or auto, not both")
    comparisons: Any = "auto" if is_auto else options.comparisons
    if options.match_cameras and not options.key:
        raise UsageError("--match-cameras needs the camera that the numbers belong to (--key)")
    curves = _curves(options, keys, comparisons)
    for key, curve in curves.items():
        for warning in curve.attrs.get("detrend", {}).get("warnings", []):
            tell(f"{key}: {warning}")
        for line in curve.attrs.get("choice", []):
            tell(f"{key}: {line}")
        flux = curve["relative_flux"].to_numpy()
        used = np.isfinite(flux)
        if not used.any():
            tell(f"{key}: no frame has all of the sources")
            continue
        scatter, error = np.nanstd(flux) / np.nanmedian(flux), np.nanmedian(curve["relative_flux_err"] / flux)
        tell(
            f"{key}: {np.count_nonzero(used)} of {len(flux)} frames, median {np.nanmedian(flux):.5g}, "
            f"scatter {100 * scatter:.2f} %, median error {100 * error:.2f} %"
        )
        tell(f"  {differential.write_relative_light_curve(curve, options.out, prefix).resolve()}")
        tell(f"  {products.plot_relative_light_curve(options.out, {key: curve}, prefix).resolve()}")
    differential_photometer.keep_in_store(options.out, curves.values(), prefix, tell)
    return DONE


def _curves(options: argparse.Namespace, keys: Sequence[str], comparisons: Any) -> dict[str, xr.Dataset]:
    """Light curves that were asked for, by camera key."""
    how = {name: getattr(options, name) for name in ("radius", "weighting", "detrend", "detrend_without", "outliers")}
    curves = {
        key: differential.relative_light_curve(options.out, key, options.target, comparisons, options.label, **how)
        for key in keys
    }
    if options.match_cameras:
        curves |= differential_photometer.in_other_cameras(options.out, curves[keys[0]], how, Console(prefix="").tell)
    return curves


def _export(options: argparse.Namespace) -> int:
    files = exports.export_light_curves(
        options.out, options.format, key=options.key, label=options.label, sources=options.sources
    )
    if options.sources is None:
        files += exports.export_differential(options.out, options.format, key=options.key)
    tell = Console(prefix="").tell
    for directory in sorted({file.parent for file in files}):
        tell(f"{sum(file.parent == directory for file in files)} file(s) in {directory.resolve()}")
    return DONE


def _instrument(options: argparse.Namespace) -> Instrument:
    instrument = OPTICAM_MX() if options.instrument is None else Instrument.from_json(options.instrument)
    if options.extension is None:
        return instrument
    is_number = options.extension.removeprefix("-").isdecimal()
    extension = int(options.extension) if is_number else options.extension
    return dataclasses.replace(instrument, extension=extension)


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Parameters from the configuration file, with those of the command line before them."""
    values = config.read_parameters(options.config) if options.config else {}
    for name in config.parameter_names():
        value = getattr(options, name, None)
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    return values
