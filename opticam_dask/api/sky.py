"""Search for the sky coordinates of the sources of a reduction, from a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opticam_dask.api.repair import stored_instrument
from opticam_dask.console import PREFIX, Console
from opticam_dask.display import products
from opticam_dask.frames.sky_catalogs import read_sky_catalog
from opticam_dask.lightcurves.light_curve_files import write_light_curves
from opticam_dask.passes import sky_search
from opticam_dask.store import ownership
from opticam_dask.store.store import Store


def find_sky(
    out_directory: str | Path,
    sky_catalog: str | Path | None = None,
    *,
    wcs: str | Path | Sequence[str | Path] = (),
    pixel_scale: float | None = None,
    pointing: tuple[float, float] | None = None,
    epoch: float | None = None,
    keys: Sequence[str] | None = None,
    verbose: bool = True,
    prefix: str = PREFIX,
) -> dict[str, dict[str, Any]]:
    """Find the sources of a reduction on the sky, and write their coordinates into its catalogues.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    sky_catalog : path, optional
        Stars around the field (CSV, ECSV, FITS, VOTable): RA and Dec, where known proper motions, epoch, magnitudes and
        names. The pointing may be wrong by 10 arcminutes and the scale by 5 per cent; any rotation, mirrored or not.
    wcs : path or sequence of path
        Plate-solved copies of aligned frames of the reference night, under the names of those frames.
    pixel_scale : float, optional
        Arcseconds of a reduced pixel, before those of header and instrument.
    pointing : (float, float), optional
        Right ascension and declination, degrees, before those of the headers.
    epoch : float, optional
        Julian year of the catalogue's positions, before its own.
    keys : sequence of str, optional
        Camera keys; by default all.
    verbose : bool
        Print what was found.
    prefix : str
        Printed before each line.

    Returns
    -------
    dict of dict
        By camera key that was found: ``wcs`` (FITS keywords), ``wcs_origin``, and of a solution by stars
        ``wcs_n_matched``, ``wcs_rms`` (arcseconds), ``wcs_rms_pixel`` and ``wcs_order``.

    Raises
    ------
    ownership.OwnedError
        When another run works on the output directory.
    store.StoreError
        When there is no store, or it is of an older version.
    ValueError
        For a file that is no catalogue of stars, or a copy that is of no frame.
    """
    store = Store.open(out_directory)
    chosen = None if keys is None else [store.camera(key).key for key in keys]
    given = [wcs] if isinstance(wcs, (str, Path)) else list(wcs)
    stars = None if sky_catalog is None else read_sky_catalog(sky_catalog, epoch)
    query = sky_search.SkyQuery(stars, given, pixel_scale, pointing)
    instrument = stored_instrument(store.attributes)
    with ownership.own(out_directory):
        store.begin_changes()
        found = sky_search.find_sky(store, instrument, query, Console(verbose, prefix).tell, chosen)
        store.finish_changes()
        if found:
            products.write_catalogs(out_directory)
            for label in sorted({label for camera in store.cameras for label in camera.labels}):
                write_light_curves(out_directory, label)  # their times are those of the sources now
    return {key: solution.attributes for key, solution in found.items()}
