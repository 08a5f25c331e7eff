"""Frozen results of a camera key or a night: reference frame, catalogue, star profile; and the parts that have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opticam_dask.flags import UNUSABLE, FrameFlag, count_flags
from opticam_dask.kernels.sources.profiles.profile import N_COMPONENTS, Profile, gaussian_profile
from opticam_dask.passes.probes import PileUp
from opticam_dask.pipeline.reduction import ReductionError, Setup
from opticam_dask.store.camera import Camera, Part


def parts_with_reference(setup: Setup) -> list[Part]:
    """Parts of the keys that have a reference frame."""
    return [part for camera in setup.store.cameras if camera.reference.is_whole for part in camera.parts]


def parts_with_catalog(setup: Setup) -> list[Part]:
    """Parts of the keys that have a catalogue."""
    return [part for part in parts_with_reference(setup) if part.camera.catalog.is_whole]


def reference_night(camera: Camera) -> str:
    """Night that the reference frame and the catalogue of a camera come from."""
    return str(camera.reference.attributes["reference_night"])


def reference_part(camera: Camera) -> Part:
    """Part that the reference frame and the catalogue of a camera come from.

    Raises
    ------
    ReductionError
        When it is not in the store.
    """
    night = reference_night(camera)
    part = camera.part(night)  # asked for by every part: looking through all would be quadratic
    if part is None:
        raise ReductionError(
            f"the reference night {night} of {camera.key} is not in the store. Give its frames again: a --redo that "
            "was interrupted goes on when the same command is run again."
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
    flags = np.concatenate([part.frames["flags"] for part in parts])
    flags = flags[flags != 0]
    if np.any((flags & np.uint32(UNUSABLE)) == 0):
        return "no catalogue: the stack of the aligned frames shows no star. A lower threshold or n_pixels may help."
    advice = " With few stars in a frame, --transform-type translation asks for less."
    is_asked = setup.parameters.transform_type == "translation"
    return f"no catalogue: none of {len(flags)} frames can be used ({reasons(flags)}).{'' if is_asked else advice}"


def piled_up(part: Part) -> PileUp | None:
    """Level at which pixels pile up, as the reference night of a key shows it, for parts of its binning."""
    known = part.camera.reference.attributes
    if "pile_up_adu" not in known or reference_part(part.camera).binning != part.binning:
        return None
    level, gain, n_frames = (known[f"pile_up_{name}"] for name in ("adu", "gain", "n_frames"))
    return PileUp(float(level), float(gain), float("nan"), int(n_frames))


def read_manifest(part: Part, piled: PileUp | None, block: int) -> dict[str, np.ndarray]:
    """Manifest of a block, with the saturation that its pixels show."""
    arrays = part.manifest(block)
    if piled is not None:
        arrays["saturation"] = piled.lowered(arrays["saturation"], arrays["gain"])
    return arrays


def read_profile(part: Part) -> Profile:
    """Star profile of a part; a Gaussian where none was measured, as while an observation goes on."""
    if not part.psf.is_whole:
        return replace(gaussian_profile(), total_err=0.0)
    about = part.psf.attributes
    # stores of older versions do not say how well the total is known, and their fluxes have no such error
    total_err = float(about.get("total_err", 0.0))
    # and they had fewer functions to choose from
    found = part.psf["coefficient"]
    coefficients = np.pad(found, (0, max(N_COMPONENTS - len(found), 0)))
    return Profile(coefficients, float(about.get("pixel_area", 0.0)), total_err)


def bad_pixels_of(part: Part) -> np.ndarray:
    """Pixels that are hot or dark in most frames of a part, as places in the flattened frame."""
    return part.stack["bad_pixel"] if "bad_pixel" in part.stack else np.empty(0, dtype=np.int64)
