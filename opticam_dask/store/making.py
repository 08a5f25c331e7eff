"""Creation of the arrays of a part and of its photometry, at full size and without values."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opticam_dask import schema
from opticam_dask.store import arrays
from opticam_dask.store.camera import KINDS_OF_PART, Part
from opticam_dask.store.errors import StoreError, require_own_name
from opticam_dask.store.groups import Group


def create_part(
    part: Part,
    manifest: Mapping[str, np.ndarray],
    data_root: str,
    provenance: Mapping[str, Any] | None = None,
    *,
    site: tuple[float, float, float] | None = None,
) -> Part:
    """Make all arrays of the part at their full size and write its manifest.

    ``site`` is that of the telescope, where it is known: longitude and latitude (degrees), and height (metres).

    The attribute ``complete`` is written last: a part without it is made anew by the next run.

    Returns
    -------
    Part
        The part, with the ``uid`` that it was given.
    """
    if part.attributes.get("complete"):
        raise StoreError(f"{part.group} exists already in {part.path}.")
    made = replace(part, uid=part.uid or uuid.uuid4().hex)
    attributes = {
        "n_frames": made.n_frames,
        "frames_per_block": made.frames_per_block,
        "shape": list(made.shape),
        "binning": made.binning,
        "mesh_shape": None if made.mesh_shape is None else list(made.mesh_shape),
        "n_slots": made.n_slots,
        "data_root": data_root,
        "uid": made.uid,
        **({} if site is None else {"site": list(site)}),
        "provenance": dict(provenance or {}),
    }
    night = Group(part.path, part.group)
    arrays.create_group(part.path, part.group, attributes, overwrite=True)
    for kind in KINDS_OF_PART if made.mesh_shape is not None else KINDS_OF_PART[:2]:
        arrays.create_arrays(part.path, f"{part.group}/{kind}", kind, made.sizes(), made.frames_per_block)
    for name, values in manifest.items():
        schema.validate("frames", {name: values}, made.sizes())
        made.frames.array(name).write_whole(values)
    night.update({"complete": True})
    return made


def add_arrays(part: Part, kind: str, names: Sequence[str]) -> None:
    """Make arrays of a group that an older version did not have, without values, unless they are there."""
    group = Group(part.path, f"{part.group}/{kind}", kind)
    missing = [name for name in names if name not in group]
    if missing:
        arrays.create_arrays(part.path, group.name, kind, part.sizes(), part.frames_per_block, missing)


def add_photometry(
    part: Part,
    label: str,
    source_ids: np.ndarray,
    attributes: Mapping[str, Any],
    *,
    variables: Sequence[str] = (),
    radii: Sequence[float] = (),
) -> None:
    """Make the arrays of a photometry label, unless they are there; sources that were placed since get room in them.

    Parameters
    ----------
    part : Part
        The part (camera key and night) of the store.
    label : str
        Photometry label.
    source_ids : ndarray of int, shape (source,)
        Ids of the sources of the catalogue.
    attributes : dict
        Attributes of the group.
    variables : sequence of str
        Variables beyond those of every label (``schema.ALWAYS_MEASURED``).
    radii : sequence of float
        With several radii the measurements have a last dimension ``radius``.

    Raises
    ------
    StoreError
        When the label exists with other parameters, or differs from another one in capital letters alone.
    """
    require_own_name(label, part.labels)
    group = part.photometry(label)
    present = group.attributes
    if present.get("complete"):
        if present["parameters_hash"] != attributes["parameters_hash"]:
            raise StoreError(
                f"photometry {label!r} is already in the store with other parameters "
                f"({present['parameters']} before, {attributes['parameters']} now). "
                "Give this variant a name of its own with --label NAME."
            )
        _widen_label(part, label, source_ids)
        return
    kind = "photometry_radii" if radii else "photometry"
    names = [*schema.ALWAYS_MEASURED, *variables, *schema.COORDINATES[kind]]
    described = {**attributes, "variables": names, "radii": list(radii)}
    arrays.create_group(part.path, group.name, described, overwrite=True)
    _create_label(part, label, names, len(source_ids), radii)
    if radii:
        group.array("radius").write_whole(np.asarray(radii, dtype=float))
    for name in ("mjd_utc", "bmjd_tdb"):
        group.array(name).write_whole(part.frames[name])
    group.array("source_id").write_whole(source_ids)
    group.update({"complete": True})


def _widen_label(part: Part, label: str, source_ids: np.ndarray) -> None:
    """Make room in a label for the sources that were added to the catalogue since; flags, that tell so, come last."""
    group = part.photometry(label)
    if group.array("flags").shape[1] >= len(source_ids):
        return
    attributes = group.attributes
    radii = attributes.get("radii", [])
    kind = "photometry_radii" if radii else "photometry"
    _create_label(part, label, ["source_id"], len(source_ids), radii)
    group.array("source_id").write_whole(source_ids)
    names = [name for name in _names_of_label(part, label) if "source" in schema.variable(kind, name).dims]
    for name in sorted(set(names) - {"source_id"}, key=lambda name: (name == "flags", name)):
        arrays.open_zarr_array(part.path, f"{group.name}/{name}").widen(len(source_ids))


def _names_of_label(part: Part, label: str) -> list[str]:
    """Variables of a label; labels of older versions do not say which they have."""
    names = part.photometry(label).attributes.get("variables")
    return names or [one.name for one in schema.PHOTOMETRY if one.name in part.photometry(label)]


def add_to_label(part: Part, label: str, name: str) -> None:
    """Make an array of a label that an older version did not have, without values, unless it is there."""
    group = part.photometry(label)
    variables = _names_of_label(part, label)
    if name in variables:
        return
    if name not in group:
        _create_label(part, label, [name], len(group["source_id"]), group.attributes.get("radii", []))
    group.update({"variables": [*variables, name]})


def _create_label(part: Part, label: str, names: Sequence[str], n_sources: int, radii: Sequence[float]) -> None:
    sizes = {**part.sizes(), "source": n_sources, "radius": len(radii)}
    kind = "photometry_radii" if radii else "photometry"
    arrays.create_arrays(part.path, part.photometry(label).name, kind, sizes, part.frames_per_block, names)
