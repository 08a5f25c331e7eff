"""The command that reduces frames as they land: watch."""

from __future__ import annotations

import argparse
from pathlib import Path

from opticam_dask import locations
from opticam_dask.api import arguments
from opticam_dask.api import watch as watching
from opticam_dask.cli import options as given
from opticam_dask.cli.exit_codes import UsageError
from opticam_dask.cli.runs.reductions import is_to_submit, run_reduction, sky_files, submit_inside
from opticam_dask.console import tell
from opticam_dask.lightcurves import differential
from opticam_dask.passes.calibration import KINDS, PLURAL
from opticam_dask.pipeline.driver import Setup, check_parameters
from opticam_dask.store.store import Store


def watch(options: argparse.Namespace) -> int:
    """Reduce frames as they land, and the night in the end."""
    for place in (options.out, *options.data):
        locations.require_local(place, "watch")
    parameters = given.parameters(options)
    if is_to_submit(options):
        return submit_inside(options)
    instrument = given.instrument(options)
    setup = Setup(
        Path(options.out),
        instrument,
        parameters,
        frames_per_block=options.frames_per_block,
        calibration=given.calibration(options, instrument),
        sources=arguments.placed_sources(options.sources, options.moving),
        sky=arguments.sky_query(**sky_files(options)),
    )
    photometers = given.photometers(options)
    photometer = photometers[0]
    if len(photometer.radii) > 1:
        raise UsageError("watch follows one aperture: give one --radius")
    if (options.target is None) != (not options.comparisons):
        raise UsageError("a light curve needs both --target and --comparisons")
    _check_watch(options, setup)
    how = {name: getattr(options, name) for name in ("target", "comparisons", "n_first", "patience")}
    with given.session(options, given.connect(options, options.out)) as session:
        live = watching.Watch(options.data, setup, photometer, session.executor.open(), session.progress, **how)
        tell(f"Watching {', '.join(map(str, options.data))}; live files are in {live.directory.resolve()}.")
        live.run(idle=options.idle, n_frames=options.n_frames)
        live.close()
        tell("The observation is over: reducing it from the beginning.")
        status_of_reduction = run_reduction(options, session, parameters, photometers)
        for key in live.keys:
            _final_light_curve(options, live, key)
    return status_of_reduction


def _check_watch(options: argparse.Namespace, setup: Setup) -> None:
    """Refuse at once what the ordinary reduction would refuse in the end, hours later."""
    live = (Path(options.out) / watching.WATCH_NAME).resolve()
    for data in map(Path, options.data):
        if not data.exists():
            raise UsageError(f"expected a directory, but there is none at {data}")
        if data.resolve() == live or live in data.resolve().parents:
            raise UsageError(f"{data} is where the live files go: choose another --out")
        for calibration in (path for kind in KINDS for path in getattr(options, PLURAL[kind]) or ()):
            if data.resolve() in (Path(calibration).resolve(), *Path(calibration).resolve().parents):
                raise UsageError(f"{calibration} is below {data}, where frames land: keep calibration frames elsewhere")
    if setup.store.exists() and not options.new:
        check_parameters(setup)
        tops = [data.resolve() for data in map(Path, options.data)]
        parts = setup.store.parts
        known = [Path(part.attributes["data_root"]).resolve() for part in parts]
        is_same = any(root == top or top in root.parents or root in top.parents for root in known for top in tops)
        if known and not (is_same or options.append):
            raise UsageError(
                f"{options.out} holds a reduction of other frames (in {known[0]}). Add --append to take these up as "
                "further nights of the same field, --new to begin again, or use another output directory."
            )


def _final_light_curve(options: argparse.Namespace, live: watching.Watch, key: str) -> None:
    """The light curve of the live target from the ordinary reduction, in whose catalogue it may bear another number."""
    label = options.label or given.photometers(options)[0].label
    final = Store.open(options.out).camera(key).catalog.read_all()
    wanted = live.sources_of(key)
    numbers = live.final_numbers(key, wanted, final)
    for number in wanted:
        if number not in numbers:
            tell(f"{key}: source {number} of the live catalogue is not in the catalogue.")
        elif numbers[number] != number:
            tell(f"{key}: source {number} of the live catalogue is source {numbers[number]} of the catalogue.")
    if len(numbers) == len(wanted):
        target, *comparisons = (numbers[number] for number in wanted)
        curve = differential.relative_light_curve(options.out, key, target, comparisons, label)
        tell(f"{key}: {differential.write_relative_light_curve(curve, options.out, f'target_{target}').resolve()}")


#: Commands of this module by name.
COMMANDS = {"watch": watch}
