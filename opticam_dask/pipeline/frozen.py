"""What is frozen of a camera key or a night: reference frame, catalogue, star profile; and the parts that have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from opticam_dask.flags import UNUSABLE, FrameFlag, count_flags
from opticam_dask.kernels.sources.profile import Profile, gaussian_profile
from opticam_dask.passes import first_pass
from opticam_dask.pipeline.reduction import ReductionError, Setup
from opticam_dask.store import layout


def reference_group(key: str) -> str:
    """Group of the reference frame of a key."""
    return f"{layout.group_name(key)}/reference"


def catalog_group(key: str) -> str:
    """Group of the catalogue of a key."""
    return f"{layout.group_name(key)}/catalog"


def has_reference(setup: Setup, key: str) -> bool:
    """Whether the reference frame of a key is chosen."""
    return layout.has_product(setup.path, reference_group(key))


def has_catalog(setup: Setup, key: str) -> bool:
    """Whether the catalogue of a key is made."""
    return layout.has_product(setup.path, catalog_group(key))


def parts_with_reference(setup: Setup) -> list[layout.Part]:
    """Parts of the keys that have a reference frame."""
    return [
        part for key in layout.keys(setup.path) if has_reference(setup, key) for part in layout.parts(setup.path, key)
    ]


def parts_with_catalog(setup: Setup) -> list[layout.Part]:
    """Parts of the keys that have a catalogue."""
    return [p for p in parts_with_reference(setup) if has_catalog(setup, p.key)]


def reference_night(setup: Setup, key: str) -> str:
    """Night that the reference frame and the catalogue of a key come from."""
    return str(layout.read_attributes(setup.path, reference_group(key))["reference_night"])


def reference_part(setup: Setup, key: str) -> layout.Part:
    """Part that the reference frame and the catalogue of a key come from.

    Raises
    ------
    ReductionError
        When it is not in the store.
    """
    night = reference_night(setup, key)
    part = layout.open_part(setup.path, key, night)  # asked for by every part: looking through all would be quadratic
    if part is None:
        raise ReductionError(
            f"the reference night {night} of {key} is not in the store. Give its frames again: a --redo that was "
            "interrupted goes on when the same command is run again."
        )
    return part


def reasons(flags: np.ndarray) -> str:
    """Why frames cannot be used: how many have which flag."""
    counts = count_flags(flags & np.uint32(UNUSABLE), FrameFlag)
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def no_catalog(setup: Setup) -> str:
    """Why no camera has a catalogue, and what helps, in one line."""
    parts = parts_with_reference(setup)
    if not parts:
        return "no catalogue: no camera has a detected source. A lower threshold may help."
    flags = np.concatenate([layout.read_array(setup.path, f"{part.group}/frames", "flags") for part in parts])
    if np.any((flags & np.uint32(UNUSABLE)) == 0):
        return "no catalogue: the stack of the aligned frames shows no star. A lower threshold or n_pixels may help."
    advice = " With few stars in a frame, --transform-type translation asks for less."
    is_asked = setup.parameters.transform_type == "translation"
    return f"no catalogue: none of {len(flags)} frames can be used ({reasons(flags)}).{'' if is_asked else advice}"


def piled_up(setup: Setup, part: layout.Part) -> first_pass.PileUp | None:
    """Level at which pixels pile up, as the reference night of a key shows it, for parts of its binning."""
    known = layout.read_attributes(setup.path, reference_group(part.key))
    if "pile_up_adu" not in known or reference_part(setup, part.key).binning != part.binning:
        return None
    level, gain, n_frames = (known[f"pile_up_{name}"] for name in ("adu", "gain", "n_frames"))
    return first_pass.PileUp(float(level), float(gain), float("nan"), int(n_frames))


def read_manifest(path: Path, part: layout.Part, piled: first_pass.PileUp | None, block: int) -> dict[str, np.ndarray]:
    """Manifest of a block, with the saturation that its pixels show."""
    arrays = layout.read_manifest(path, part, block)
    if piled is not None:
        arrays["saturation"] = piled.lowered(arrays["saturation"], arrays["gain"])
    return arrays


def has_profile(setup: Setup, part: layout.Part) -> bool:
    """Whether the star profile of a part is measured."""
    return layout.has_product(setup.path, f"{part.group}/psf")


def read_profile(setup: Setup, part: layout.Part) -> Profile:
    """Star profile of a part; a Gaussian where none was measured, as while an observation goes on."""
    if not has_profile(setup, part):
        return replace(gaussian_profile(), total_err=0.0)
    group = f"{part.group}/psf"
    about = layout.read_attributes(setup.path, group)
    # stores of older versions do not say how well the total is known, and their fluxes have no such error
    total_err = float(about.get("total_err", 0.0))
    return Profile(layout.read_array(setup.path, group, "coefficient"), float(about.get("pixel_area", 0.0)), total_err)
