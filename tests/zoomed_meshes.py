"""Zoomed meshes of the sky in small windows, as a frame is measured with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from opticam_dask.kernels.images.sky import background, smooth_zoom


def smooth_windows(mesh: np.ndarray, *where: Any) -> np.ndarray:
    """Level of the sky: the smooth spline of a mesh; arguments as of ``background.spline_windows``."""
    return background.spline_windows(smooth_zoom.coefficients(mesh), *where, smooth_zoom.UNBOUND)


def mesh_windows(mesh: np.ndarray, *where: Any) -> np.ndarray:
    """Background RMS: the spline through a mesh, which stays in its range."""
    return background.spline_windows(background.mirrored_knots(mesh), *where, (mesh.min(), mesh.max()))
