"""Commands about frames: demo, sample, generate, check."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from opticam_dask import locations
from opticam_dask.cli.answers import answer
from opticam_dask.cli.exit_codes import DONE, FAILED, RunError, one_line
from opticam_dask.console import tell

# what one command needs is imported there: each of them is to answer at once


def demo(options: argparse.Namespace) -> int:
    """Simulate, reduce and plot."""
    locations.require_local(options.directory, "demo")
    tell(f"Demonstration in {Path(options.directory).resolve()}.")
    from opticam_dask.cli import demo as demonstration
    from opticam_dask.cli import options as given

    with contextlib.closing(given.connect(options, Path(options.directory) / "reduced")) as place:
        demonstration.run_demo(options.directory, options.n_images, client=place)
    return DONE


def sample(options: argparse.Namespace) -> int:
    """Fetch sample frames, or find those that were fetched before."""
    from opticam_dask.frames.samples import fetching

    try:
        place = fetching.fetch_sample(options.name, options.directory, simulate=not options.no_simulate, tell=tell)
    except fetching.SampleError as error:
        raise RunError(one_line(error)) from error
    known = fetching.SAMPLES.get(place.name)
    tell(f"Frames are in {place.resolve()}.")
    reader = f" --instrument {known.instrument}" if known else ""
    tell(f"Next: opticam-dask reduce {shlex.quote(str(place))}{reader} --out OUT")
    return DONE


def generate(options: argparse.Namespace) -> int:
    """Write simulated frames."""
    locations.require_local(options.directory, "generate")
    from opticam_dask.frames.simulation import synthetic

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
    tell(f"Frames are in {Path(options.directory).resolve()}.")
    return DONE


def check(options: argparse.Namespace) -> int:
    """Say which cameras, filters and frames there are, and which files cannot be used."""
    from opticam_dask.cli import options as given
    from opticam_dask.display import status
    from opticam_dask.frames import scanning
    from opticam_dask.frames.guessing.unknown import unknown_camera

    instrument = given.instrument(options)
    found = scanning.scan(scanning.find_files(options.data), instrument)
    if options.json:
        answer({"instrument": instrument.name, **status.scan_record(found)})
    tell(f"Instrument {instrument.name}: {len(found.table)} usable frame(s), {len(found.set_aside)} set aside.")
    for line in status.describe_scan(found):
        tell(line)
    sentence, set_aside = unknown_camera(found, instrument)
    if sentence:
        tell(sentence)
    shown = set_aside if options.problems == 0 else set_aside[: options.problems]
    for file, reason in shown:
        tell(f"  set aside: {file}: {reason}")
    if len(shown) < len(set_aside):
        tell(f"  ... and {len(set_aside) - len(shown)} more (--problems 0 lists all)")
    return DONE if len(found.table) else FAILED


#: Commands of this module by name.
COMMANDS = {"demo": demo, "sample": sample, "generate": generate, "check": check}
