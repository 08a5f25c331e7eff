"""Commands about a store: status, verify, migrate, relocate, remove."""

from __future__ import annotations

import argparse
import json

from opticam_dask import schema
from opticam_dask.cli.answers import answer
from opticam_dask.cli.exit_codes import DONE, FAILED
from opticam_dask.console import tell
from opticam_dask.display import status as progress
from opticam_dask.locations import location
from opticam_dask.store.ownership import PLANNED_RUN
from opticam_dask.store.provenance import provenance
from opticam_dask.store.store import Store

# what one command needs is imported there: each of them is to answer at once


def status(options: argparse.Namespace) -> int:
    """Say what is done and what is to do."""
    if options.json:
        record = progress.reduction_record(options.out)
        record["unfinished"] = progress.unfinished(Store.open(options.out).path)
        answer(record | {"planned_run": _planned_run(options)})
        return DONE
    if options.provenance or options.files:
        for line in json.dumps(provenance(options.out, files=options.files), indent=2).splitlines():
            tell(line)
        return DONE
    for line in progress.describe_reduction(options.out, n_problems=options.problems or None):
        tell(line)
    for line in _planned_run(options):
        tell(line)
    return DONE


def _planned_run(options: argparse.Namespace) -> list[str]:
    """Where a planned run of the directory stands; it is rare, and takes all rooms of a reduction to describe."""
    if not (location(options.out) / PLANNED_RUN).is_dir():
        return []
    from opticam_dask.api.jobs.planning import describe_run

    return describe_run(options.out)


def verify(options: argparse.Namespace) -> int:
    """Read every chunk, compare with another store, or repair."""
    from opticam_dask.store import integrity

    store = Store.open(options.out)
    if store.version != schema.SCHEMA_VERSION:
        tell(f"Schema version {store.version}: opticam-dask migrate {options.out} brings it up to date.")
    if options.repair:
        from opticam_dask.api.repair import repair
        from opticam_dask.cli import options as given

        with given.session(options, given.connect(options, options.out)) as session:
            repair(session)
    if options.against is not None:
        lines = integrity.compare(store.path, Store.open(options.against).path)
        good = f"{options.out} and {options.against} hold the same bits."
    else:
        damage = integrity.find_damage(store.path)
        lines = [str(entry) for entry in damage] or progress.unfinished(store.path)
        if damage:
            remedy = f"opticam-dask verify {options.out} --repair makes them again"
            is_any = any(entry.is_repairable for entry in damage)
            lines.append(f"{len(damage)} thing(s) damaged: {remedy if is_any else 'see above what brings them back'}.")
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
    from opticam_dask.cli import options as given
    from opticam_dask.store import migrations

    Store.open(options.out)
    with given.session(options):
        lines = migrations.migrate(options.out)
    for line in lines or [f"{options.out} is of the present version."]:
        tell(line)
    return DONE


def remove(options: argparse.Namespace) -> int:
    """Remove a night."""
    from opticam_dask.cli import options as given
    from opticam_dask.pipeline import nights

    Store.open(options.out)
    with given.session(options):
        for line in nights.remove_night(options.out, options.night):
            tell(line)
    return DONE


def relocate(options: argparse.Namespace) -> int:
    """Tell a store where its frames are now."""
    from opticam_dask.api.repair import stored_instrument
    from opticam_dask.cli import options as given
    from opticam_dask.pipeline import relocation

    instrument = stored_instrument(Store.open(options.out).attributes)
    with given.session(options):
        for line in relocation.relocate(options.out, options.data, instrument):
            tell(line)
    return DONE


#: Commands of this module by name.
COMMANDS = {"status": status, "verify": verify, "migrate": migrate, "relocate": relocate, "remove": remove}
