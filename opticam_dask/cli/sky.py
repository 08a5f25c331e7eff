"""Command ``sky``: find the sources of a reduction on the sky."""

from __future__ import annotations

import argparse

from opticam_dask.api.sky import find_sky
from opticam_dask.cli import options as given
from opticam_dask.cli.exit_codes import DONE, FAILED
from opticam_dask.frames.sky_catalogs import place_of
from opticam_dask.store.store import Store


def sky(options: argparse.Namespace) -> int:
    """Find the sources of a reduction on the sky."""
    Store.open(options.out)
    pointing = place_of(*options.pointing) if options.pointing else None
    with given.session(options):
        found = find_sky(
            options.out,
            options.sky_catalog,
            wcs=options.wcs,
            pixel_scale=options.pixel_scale,
            pointing=pointing,
            epoch=options.sky_epoch,
            keys=options.key,
            prefix="",
        )
    return DONE if found else FAILED


COMMANDS = {"sky": sky}
