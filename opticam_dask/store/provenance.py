"""Where every result of a store comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opticam_dask.store.camera import Part
from opticam_dask.store.store import Store


def provenance(out_directory: str | Path, *, files: bool = False) -> dict[str, Any]:
    """Origin of every result: parameters, versions, and the frames that went in.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    files : bool
        List every frame with its size in bytes and its modification time.

    Returns
    -------
    dict
        ``parameters``, ``instrument``, ``versions`` and ``created`` of the store; ``nights`` by key and part, each with
        ``data_root``, ``n_files``, ``bytes``, first and last ``mjd_utc``, the versions that read it, and those of each
        photometry label.

    Raises
    ------
    store.StoreError
        When there is no store.
    """
    store = Store.open(out_directory)
    attributes = store.attributes
    return {
        "parameters": json.loads(attributes["parameters"]),
        "parameters_hash": attributes["parameters_hash"],
        "schema_version": attributes["schema_version"],
        "instrument": attributes.get("instrument_definition", attributes["instrument"]),
        "versions": {name: attributes[name] for name in ("opticam_dask_version", "python", "packages")},
        "created": attributes["created"],
        "nights": {
            camera.key: {part.night: _provenance_of_part(part, files) for part in camera.parts}
            for camera in store.cameras
        },
    }


def _provenance_of_part(part: Part, files: bool) -> dict[str, Any]:
    manifest, attributes = part.manifest(), part.attributes
    labels = {label: part.photometry(label).attributes for label in part.labels}
    record = {
        "data_root": attributes["data_root"],
        "n_files": part.n_frames,
        "bytes": int(manifest["file_size"].sum()),
        "mjd_utc": [float(manifest["mjd_utc"].min()), float(manifest["mjd_utc"].max())],
        "versions": attributes.get("provenance", {}),
        "photometry": {
            label: {"parameters": json.loads(found["parameters"]), "versions": found.get("provenance", {})}
            for label, found in labels.items()
        },
    }
    if files:
        facts = (manifest[name].tolist() for name in ("file", "file_size", "file_mtime"))
        record["files"] = [
            {"file": file, "bytes": size, "modified": modified} for file, size, modified in zip(*facts, strict=True)
        ]
    return record
