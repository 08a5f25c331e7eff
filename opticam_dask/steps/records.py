"""Results of the frames of a block, as arrays along ``frame``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opticam_dask.kernels.sources.profiles import field_form
from opticam_dask.steps.frame_steps import FrameResult, FrameSteps

#: Numbers that a frame has, or NaN.
_MEASURED = (
    *("background", "background_rms", "fwhm", "semimajor_sigma", "semiminor_sigma", "orientation"),
    *("transform_rms", "fringe_scale"),
)


def block_arrays(
    steps: FrameSteps, results: list[FrameResult], manifest: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Records of a block as arrays over its frames, NaN where a frame has no value."""
    n_frames, n_slots = len(results), steps.n_slots
    frames: dict[str, np.ndarray] = {
        name: np.array([result.values.get(name, np.nan) for result in results], dtype=float) for name in _MEASURED
    }
    for name in ("n_sources", "n_matched"):
        frames[name] = np.array([result.values.get(name, 0) for result in results], dtype=np.int32)
    for name, shape in (("transform", (3, 3)), ("form_terms", (3, field_form.N_TERMS))):
        nothing = np.full(shape, np.nan)
        frames[name] = np.array([result.values.get(name, nothing) for result in results]).reshape(-1, *shape)
    frames["message"] = np.array([result.message for result in results], dtype=object)
    own = np.array([int(result.flags) for result in results], dtype=np.uint32)
    frames["flags"] = own | manifest["scan_flags"]
    empty = np.full(n_slots, np.nan)
    names = ("x", "y", "flux", "semimajor_sigma", "semiminor_sigma", "orientation")
    arrays = {
        "frames": frames,
        "sources": {
            name: np.array([result.sources.get(name, empty) for result in results]).reshape(n_frames, n_slots)
            for name in names
        },
    }
    if steps.mesh_shape is not None:
        no_mesh = np.full(steps.mesh_shape, np.nan)
        arrays["background"] = {
            name: np.array([result.meshes.get(name, no_mesh) for result in results])
            for name in ("background_mesh", "background_rms_mesh", "background_offset_mesh", "background_mean_mesh")
        }
        nowhere = np.zeros(steps.mesh_shape, dtype=np.int32)
        arrays["background"]["background_n_sky"] = np.array(
            [result.meshes.get("background_n_sky", nowhere) for result in results], dtype=np.int32
        )
    return arrays


def record_of(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """First-pass record of the only frame of some arrays, by name: what it is measured with."""
    sources = {name: arrays["sources"][name] for name in ("x", "y", "flux")}
    every = sources | dict(arrays.get("background", {})) | dict(arrays["frames"])
    return {name: values[0] for name, values in every.items()}
