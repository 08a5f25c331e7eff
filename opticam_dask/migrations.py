"""Bring a store of an older schema version to the present one, step by step, without changing a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from opticam_dask import integrity, schema, store


class Migration(NamedTuple):
    """One step: the version it leads to, what it does, and in words."""

    to: str
    apply: Callable[[Path], object]
    sentence: str


def _to_1_1(path: Path) -> None:
    integrity.add_arrays_of(path, "1.1")
    integrity.write_missing_chunks(path)


def _to_1_2(path: Path) -> None:
    integrity.add_arrays_of(path, "1.2")
    integrity.write_missing_chunks(path)


#: By the version that a step starts from.
MIGRATIONS: dict[str, Migration] = {
    "1.0": Migration(
        "1.1",
        _to_1_1,
        "chunks of finished blocks that hold only fill values become files, so that a lost chunk is known as lost; "
        "the form of the stars and the offset of the sky mesh are there, without values",
    ),
    "1.1": Migration("1.2", _to_1_2, "the position that each frame was pointed at is there, without values"),
}


def migrate(out_directory: str | Path) -> list[str]:
    """Bring the store of an output directory to the present schema version.

    The version is written after each step, so that a migration that was interrupted goes on.

    Parameters
    ----------
    out_directory : path

    Returns
    -------
    list of str
        What was done, a line each; empty when the store is of this version already.

    Raises
    ------
    store.StoreError
        When the version is not known.
    """
    path = store.require_store(out_directory)
    lines = []
    while (version := store.schema_version(path)) != schema.SCHEMA_VERSION:
        step = MIGRATIONS[version]
        store.drop_consolidated(path)
        step.apply(path)
        store.update_attributes(path, "", {"schema_version": step.to})
        lines.append(f"{version} -> {step.to}: {step.sentence}.")
    if lines:
        store.finish_changes(path)
    return lines
