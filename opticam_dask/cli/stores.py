"""Commands about a store: status, verify, migrate, relocate, remove."""

from __future__ import annotations

import argparse
import json

from opticam_dask import schema
from opticam_dask.api.jobs import planning
from opticam_dask.api.repair import repair, stored_instrument
from opticam_dask.cli import options as given
from opticam_dask.cli.answers import answer
from opticam_dask.cli.exit_codes import DONE, FAILED
from opticam_dask.console import Console
from opticam_dask.display import status as progress
from opticam_dask.lightcurves import results
from opticam_dask.pipeline import nights, relocation
from opticam_dask.store import integrity, migrations
from opticam_dask.store.store import Store


def status(options: argparse.Namespace) -> int:
    """Say what is done and what is to do."""
    tell = Console(prefix="").tell
    if options.json:
        record = progress.reduction_record(options.out)
        record["unfinished"] = progress.unfinished(Store.open(options.out).path)
        answer(record | {"planned_run": planning.describe_run(options.out)})
        return DONE
    if options.provenance or options.files:
        for line in json.dumps(results.provenance(options.out, files=options.files), indent=2).splitlines():
            tell(line)
        return DONE
    for line in progress.describe_reduction(options.out, n_problems=options.problems or None):
        tell(line)
    for line in planning.describe_run(options.out):
        tell(line)
    return DONE


def verify(options: argparse.Namespace) -> int:
    """Read every chunk, compare with another store, or repair."""
    store = Store.open(options.out)
    tell = Console(prefix="").tell
    if store.version != schema.SCHEMA_VERSION:
        tell(f"Schema version {store.version}: opticam-dask migrate {options.out} brings it up to date.")
    if options.repair:
        with given.session(options, given.connect(options, options.out)) as session:
            repair(session)
    if options.against is not None:
        lines = integrity.compare(store.path, Store.open(options.against).path)
        good = f"{options.out} and {options.against} hold the same bits."
    else:
        damage = integrity.find_damage(store.path)
        lines = [str(entry) for entry in damage] or progress.unfinished(store.path)
        if damage:
            lines.append(
                f"{len(damage)} thing(s) damaged: opticam-dask verify {options.out} --repair makes them again."
            )
        elif stray := integrity.stray_files(store.path):
            tell(f"{len(stray)} temporary file(s) of interrupted writes, which do no harm; --repair removes them.")
        good = f"{options.out} is whole."
    if options.json:
        answer({"is_good": not lines, "findings": lines})
    for line in lines or [good]:
        tell(line)
    return FAILED if lines else DONE


def migrate(options: argparse.Namespace) -> int:
    """Bring a store up to date."""
    Store.open(options.out)
    with given.session(options):
        lines = migrations.migrate(options.out)
    for line in lines or [f"{options.out} is of the present version."]:
        Console(prefix="").tell(line)
    return DONE


def remove(options: argparse.Namespace) -> int:
    """Remove a night."""
    Store.open(options.out)
    with given.session(options):
        for line in nights.remove_night(options.out, options.night):
            Console(prefix="").tell(line)
    return DONE


def relocate(options: argparse.Namespace) -> int:
    """Tell a store where its frames are now."""
    instrument = stored_instrument(Store.open(options.out).attributes)
    with given.session(options):
        for line in relocation.relocate(options.out, options.data, instrument):
            Console(prefix="").tell(line)
    return DONE


#: Commands of this module by name.
COMMANDS = {"status": status, "verify": verify, "migrate": migrate, "relocate": relocate, "remove": remove}
