"""Bring a store of an older schema version to the present one, step by step, without changing a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from opticam_dask import identities, schema
from opticam_dask.frames.instruments import OPTICAM_MX, Instrument
from opticam_dask.store import integrity, making
from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store


class Migration(NamedTuple):
    """One step: the version that it leads to, the function that does it, and a sentence about it."""

    to: str
    apply: Callable[[Store, str], object]
    sentence: str


def _add_arrays(store: Store, version: str) -> None:
    """Add the arrays that there are since a version."""
    integrity.add_arrays_of(store, version)
    integrity.write_missing_chunks(store)


def _to_1_2(store: Store, version: str) -> None:
    _add_arrays(store, version)
    _complete_instrument(store)


def _complete_instrument(store: Store) -> None:
    """Add what instruments can say since 1.2 to the record of the parameters, so that the same command goes on."""
    attributes = store.attributes
    record = json.loads(attributes["parameters"])
    usual = OPTICAM_MX() if record["instrument"]["class"] == "OPTICAM_MX" else _PLAIN
    later = {name: identities.describe(getattr(usual, name)) for name in _OF_INSTRUMENTS_SINCE_1_2}
    record["instrument"] = later | record["instrument"]
    changed: dict[str, Any] = {
        "parameters": identities.parameters_json(record),
        "parameters_hash": identities.parameters_hash(record),
    }
    if definition := attributes.get("instrument_definition"):
        changed["instrument_definition"] = later | definition
    for part, label in _labelled(store):
        group = part.photometry(label)
        photometer = json.loads(group.attributes["parameters"])
        group.update({"parameters_hash": identities.parameters_hash({"photometer": photometer, "reduction": record})})
    store.update(changed)


def _labelled(store: Store) -> list[tuple[Part, str]]:
    return [(part, label) for part in store.parts for label in part.labels]


def _to_1_3(store: Store, version: str) -> None:
    """Add what the first pass and the photometers of this package find since 1.3."""
    integrity.add_arrays_of(store, version)
    for part, label in _labelled(store):
        record = json.loads(part.photometry(label).attributes["parameters"])
        if record.get("class") in _OWN_PHOTOMETERS:
            making.add_to_label(part, label, "profile_chi2")
    integrity.write_missing_chunks(store)


def _to_1_8(store: Store, _version: str) -> None:
    if (store.path / "marks").is_dir():
        store.put_marks(store.read_marks())


_OWN_PHOTOMETERS = ("AperturePhotometer", "OptimalPhotometer", "PSFPhotometer")
_OF_INSTRUMENTS_SINCE_1_2 = ("linearity_keyword", "default_linearity", "scintillation_coefficient")
_PLAIN = Instrument(name="any", time_keywords=("DATE-OBS",), time_marks="start", cameras={"1": ()})


#: By the version that a step starts from.
MIGRATIONS: dict[str, Migration] = {
    "1.0": Migration(
        "1.1",
        _add_arrays,
        "chunks of finished blocks that hold only fill values become files, so that a lost chunk is known as lost; "
        "the form of the stars and the offset of the sky mesh are there, without values",
    ),
    "1.1": Migration("1.2", _to_1_2, "the position of each frame and the linear range are there, without values"),
    "1.2": Migration(
        "1.3",
        _to_1_3,
        "photometry has profile_chi2, and the number of sky pixels of each box is there, without values",
    ),
    "1.3": Migration(
        "1.4",
        _add_arrays,
        "the change of the form of stars over each frame is there, without values; a catalogue may hold coordinates on "
        "the sky (opticam-dask sky finds them)",
    ),
    "1.4": Migration("1.5", _add_arrays, "the extension and plane of each frame are there: 0, the image of its file"),
    "1.5": Migration("1.6", _add_arrays, "the scale of the fringes of each frame is there, without values"),
    "1.6": Migration(
        "1.7", _add_arrays, "the checksum of each file and when it last changed are there, without values"
    ),
    "1.7": Migration("1.8", _to_1_8, "the marks of observers are in one file"),
}


def migrate(out_directory: str | Path) -> list[str]:
    """Bring the store of an output directory to the present schema version.

    The version is written after each step, so that a migration that was interrupted goes on.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.

    Returns
    -------
    list of str
        What was done, a line each; empty when the store is of this version already.

    Raises
    ------
    store.StoreError
        When the version is not known.
    """
    store = Store.open(out_directory)
    lines = []
    while (version := store.version) != schema.SCHEMA_VERSION:
        step = MIGRATIONS[version]
        store.drop_consolidated()
        step.apply(store, step.to)
        store.update({"schema_version": step.to})
        lines.append(f"{version} -> {step.to}: {step.sentence}.")
    if lines:
        store.finish_changes()
    return lines
