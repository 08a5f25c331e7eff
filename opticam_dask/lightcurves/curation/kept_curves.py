"""Light curves that are kept in the store: made again when marks change, and with them their files."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from opticam_dask import schema
from opticam_dask.lightcurves import differential
from opticam_dask.lightcurves.field.magnitudes import magnitudes, magnitudes_file, write_magnitudes
from opticam_dask.lightcurves.fitting.outcome import OLD_FIT
from opticam_dask.lightcurves.reading import opening
from opticam_dask.store.camera import Camera
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store


def make_kept_curves_again(out_directory: str | Path, camera: Camera, labels: Collection[str]) -> None:
    """Make the kept light curves of a camera again, with the present marks.

    A light curve that does not say how it was made (older versions) stays as it is; one whose writing was interrupted
    is made whole. Fits stay, with a note where the light curve is not the one that was fitted.

    Parameters
    ----------
    out_directory : path
        Output directory of the reduction.
    camera : Camera
        Whose marks have changed.
    labels : collection of str
        Photometry labels that they are on.
    """
    store = Store(camera.path)
    store.begin_changes()
    for name in camera.product("differential").group_names:
        told = camera.differential(name).attributes
        if told.get("label") not in labels:
            continue
        if "made_with" in told:
            try:
                curve = _made(out_directory, camera.key, json.loads(told["made_with"]))
            except ValueError as error:
                warnings.warn(f"{camera.key}: the light curve {name!r} cannot be made again: {error}", stacklevel=4)
            else:
                _keep(curve, camera, name)
        if camera.differential(name).is_whole:
            _write_files(opening.kept_curve(camera, name, lazily=False).to_xarray(), out_directory, name)
    store.finish_changes()


def _made(out_directory: str | Path, key: str, how: dict[str, Any]) -> xr.Dataset:
    """A light curve as it was asked for."""
    if how.pop("make", "") == "magnitudes":
        return magnitudes(out_directory, key, **how)
    return differential.relative_light_curve(out_directory, key, **how)


def _keep(curve: xr.Dataset, camera: Camera, name: str) -> None:
    """Keep a light curve in place of the one of its name, with the fit to that."""
    group, arrays = camera.differential(name), differential.arrays_of(curve)
    before, now = _digest(group.read_all()) if group.is_whole else "", _digest(arrays)
    if before == now:
        group.update(curve.attrs)
        return
    # the note goes first: where this is interrupted no fit is taken for one to the new light curve
    for other in Store(camera.path).cameras:
        _note(other.fit(name), camera.key, before, now)
    group.rewrite(arrays, curve.attrs)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Checksum of a light curve as the store keeps it."""
    found = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        dtype = schema.variable("differential", name).dtype
        found.update(name.encode())
        found.update("\n".join(values.tolist()).encode() if dtype == "str" else np.asarray(values, dtype).tobytes())
    return found.hexdigest()


def _note(fit: Group, key: str, before: str, now: str) -> None:
    """Note in a fit that its light curve has changed since; take the note back where the curve is again as fitted.

    The attribute ``fitted`` of the fit has the checksums of light curves that have changed since, by camera key.
    """
    if not fit.is_whole or key not in fit["key"].tolist():
        return
    told = fit.attributes
    notes, fitted = str(told.get("notes", "")).splitlines(), json.loads(told.get("fitted", "{}"))
    if OLD_FIT in notes and not fitted:
        return  # of an older version: what was fitted is not known any more
    if (then := fitted.pop(key, before)) != now:
        fitted[key] = then
    notes = [line for line in notes if line != OLD_FIT] + [OLD_FIT] * bool(fitted)
    fit.update({"notes": "\n".join(notes), "fitted": json.dumps(fitted)})


def _write_files(curve: xr.Dataset, out_directory: str | Path, name: str) -> None:
    """Write the file of a light curve again, where it has one; light curves in magnitudes have a file of their own."""
    if "magnitude" in curve:
        if magnitudes_file(curve, out_directory, name).exists():
            write_magnitudes(curve, out_directory, name)
    elif differential.relative_file(curve, out_directory, name).exists():
        differential.write_relative_light_curve(curve, out_directory, name)
