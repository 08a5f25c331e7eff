"""Repair a store: drop what is damaged, and make it again with the parameters that the store keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opticam_dask import identities
from opticam_dask.api.session import Session
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.locations import location
from opticam_dask.methods.frame_view import Photometer
from opticam_dask.methods.photometer_kinds import photometer_from_record
from opticam_dask.passes.calibration import Calibration
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.driver import ReductionError, Setup
from opticam_dask.pipeline.stages.photometry import measure_quality
from opticam_dask.store import integrity
from opticam_dask.store.groups import remove_stray
from opticam_dask.store.store import Store


def repair(session: Session) -> None:
    """Make again what :func:`integrity.find_damage` finds, and whatever is not done.

    Parameters
    ----------
    session : Session
        That of this process on the output directory, which is entered.

    Raises
    ------
    ReductionError
        When something cannot be made again from the store and its frames; what can be has been.
    """
    store, progress = Store.open(session.out_directory), session.progress
    store.begin_changes()
    damage = integrity.find_damage(store.path)
    if beyond := [entry for entry in damage if not entry.is_repairable and entry.is_metadata]:
        raise ReductionError(f"{len(beyond)} thing(s) cannot be repaired from the store: {beyond[0]}")
    for entry in damage:
        if entry.drop is not None:
            entry.drop()
        if entry.is_repairable:
            progress.tell(f"Repairing {entry}")
    for file in integrity.stray_files(store.path):
        remove_stray(file)
    run = driver.Run(stored_setup(session.out_directory), session.executor, progress)
    driver.drive(run)
    for entry in damage:
        if entry.restore is not None:
            entry.restore()
    run.photometers = _photometers(run.setup)
    driver.drive(run, driver.TO_LIGHT_CURVES)
    measure_quality(run)  # also where no photometry was to be made again
    driver.finish(run.setup)
    if beyond := [entry for entry in damage if not entry.is_repairable]:
        raise ReductionError(f"{len(beyond)} thing(s) cannot be repaired from the store: {beyond[0]}")


def stored_setup(out_directory: str | Path) -> Setup:
    """Set-up that a store was made with, from what it keeps.

    Raises
    ------
    ReductionError
        When it was made with functions of the user, which no store can hold.
    """
    attributes = Store.open(out_directory).attributes
    setup = Setup(
        location(out_directory),
        stored_instrument(attributes),
        driver.stored_parameters(out_directory),
        calibration=Calibration.from_record(json.loads(attributes["parameters"])),
    )
    if identities.parameters_hash(setup.record()) != attributes["parameters_hash"]:
        before = json.loads(attributes["parameters"])
        own = [
            line.split(":")[0]
            for line in identities.differences(before, json.loads(identities.parameters_json(setup.record())))
        ]
        raise ReductionError(
            f"{out_directory} was made with functions of your own ({', '.join(own)}), which the store cannot hold. "
            "What is damaged was dropped: run the script that made it again, and it makes that anew."
        )
    return setup


def stored_instrument(attributes: dict[str, Any]) -> Instrument:
    """Instrument that a store was made with, from the attributes of its root."""
    definition = attributes.get("instrument_definition")
    usual = OPTICAM_MX()
    if definition is None or definition == json.loads(json.dumps(usual.to_dict())):
        return usual
    return Instrument.from_json(definition)


def _photometers(setup: Setup) -> dict[str, Photometer]:
    """Photometer of each label that has blocks to measure."""
    found: dict[str, Photometer] = {}
    for part in setup.store.parts:
        for label in part.labels:
            if label not in found and not part.photometry(label).done().all():
                found[label] = _stored_photometer(label, part.photometry(label).attributes)
    return found


def _stored_photometer(label: str, attributes: dict[str, Any]) -> Photometer:
    photometer = photometer_from_record(json.loads(attributes["parameters"]))
    if photometer is None or identities.parameters_json(identities.describe(photometer)) != attributes["parameters"]:
        raise ReductionError(
            f"photometry {label!r} was made with a photometer of your own, which the store cannot hold, or by an older "
            "version. What is damaged was dropped: run what made it again, and it makes that anew."
        )
    return photometer
