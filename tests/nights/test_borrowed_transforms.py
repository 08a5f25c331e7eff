"""Frames with none, one or two stars are where the simultaneous frames of other cameras say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_nights import FIELD, SmallNight, add_star, read_out, reduce_frames, write_frame

from opticam_dask import AperturePhotometer
from opticam_dask.flags import UNUSABLE, FrameFlag
from opticam_dask.kernels.images.matching import align

CAMERAS = {"cameras": {"1": ["u"], "2": ["g"], "3": ["r"]}, "default_filter": None}
U, G, R = 0, 1, 2
STARTS = ("2024-01-01T20:00:00", "2024-01-02T20:00:00")
N_FRAMES, SIZE, SKY, FWHM = 12, 200, 400.0, 4.0
MIDDLE = (SIZE - 1) / 2
#: In the u band two stars are detected in a frame under a clear sky, one under thin clouds, none under thicker ones.
FLUX_U = np.array([29000.0, 6800.0, 3000.0, 3000.0, 2800.0, 2800.0, 2600.0, 2600.0, 0.0, 0.0])
CLEAR = (1.0, 0.45, 0.12)


def to_frame(camera: int, night: int, index: int) -> np.ndarray:
    """Places of the sky to a frame: dithers, a turn of the telescope, a camera that is mirrored and slowly drifts."""
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2], back[:2, 2] = -MIDDLE, MIDDLE
    turn = np.deg2rad(0.05 * index + 180.0 * night)
    pointing = np.array(
        [[np.cos(turn), -np.sin(turn), 0.7 * index], [np.sin(turn), np.cos(turn), -0.4 * index], [0, 0, 1]]
    )
    own = np.eye(3)
    if camera == U:
        cos, sin = 0.98 * np.cos(np.pi / 6), 0.98 * np.sin(np.pi / 6)
        own = np.array([[-cos, sin, 5.0 + 0.01 * index], [sin, cos, -3.0 - 0.005 * index], [0, 0, 1]])
    return back @ own @ pointing @ centre


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("borrowed")
    rng = np.random.default_rng(4)
    for camera, night in ((U, 0), (U, 1), (G, 0), (G, 1), (R, 0)):
        for index in range(N_FRAMES):
            electrons = np.full((SIZE, SIZE), SKY)
            flux = FLUX_U * CLEAR[index % 3] if camera == U else FIELD[:, 2]
            places = align.apply_transform(to_frame(camera, night, index), FIELD[:, :2])
            for (x, y), light in zip(places, flux, strict=True):
                add_star(electrons, x, y, light, FWHM)
            file = directory / "frames" / f"c{camera}_n{night}_{index:02d}.fits"
            write_frame(file, read_out(electrons, rng), 20.0 * index, STARTS[night], FILTER="ugr"[camera])
    reduce_frames(directory, AperturePhotometer(), instrument=CAMERAS)
    return directory / "out"


@pytest.mark.parametrize(("night", "n_before"), [(0, 8), (1, 4)])
def test_frames_are_aligned_through_other_cameras(nights: Path, night: int, n_before: int) -> None:
    """To 0.1 pixel, over a turn of the telescope by 180 degrees and a drift between cameras; flagged, with its error.

    ``n_before`` of the 12 frames of each night can be used without that.
    """
    found = SmallNight(nights, "1:u", STARTS[night][:10])
    frames, catalog = found.frames, found.catalog
    flags = frames["flags"].to_numpy()
    assert np.all(flags & np.uint32(FrameFlag.BORROWED))
    assert not np.any(flags & np.uint32(UNUSABLE))
    assert set(frames["n_sources"].to_numpy().tolist()) == {0, 1, 2}
    assert np.count_nonzero(frames["n_matched"] > 0) == n_before
    assert frames["transform_rms"].max() < 0.1
    stars = np.column_stack([catalog["x"][:2], catalog["y"][:2]])
    off = []
    for index, transform in enumerate(frames["transform"].to_numpy()):
        truth = to_frame(U, night, index)
        off.append(align.apply_transform(transform, stars) - align.apply_transform(truth, FIELD[:2, :2]))
        turned = transform[:2, :2] - (truth @ np.linalg.inv(to_frame(U, 0, reference_index(found))))[:2, :2]
        assert np.abs(turned).max() * MIDDLE < 0.05
    away = np.hypot(*np.mean(off, axis=1).T)
    print(away)
    assert np.sqrt(np.mean(away**2)) < 0.1
    curves = found.curves()
    assert np.isfinite(curves["flux"]).all()


def reference_index(night: SmallNight) -> int:
    return int(night.group("reference").attrs["reference_index"])
