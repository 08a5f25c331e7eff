"""A field that turns, is flipped at the meridian, drifts by half its width, clouded: every source stays itself."""

from __future__ import annotations

import numpy as np

from opticam_dask import Reducer, light_curves, open_reduction, simulate_observations
from opticam_dask.flags import UNUSABLE, QualityFlag, SourceFlag

N_FRAMES, SHAPE = 40, (300, 320)


def test_moving_field__every_source_keeps_its_number(tmp_path):
    truth = simulate_observations(
        tmp_path / "frames",
        n_frames=N_FRAMES,
        shape=SHAPE,
        n_sources=24,
        filters=("g",),
        flux_range=(2e4, 4e5),
        fwhm=3.5,
        seeing_amplitude=0.2,
        drift=(160.0, -20.0),
        rotation=25.0,
        flip_after=0.5,
        cloud=(0.7, 0.75, 0.05),
        least_separation=5.0,
        seed=11,
    )
    reducer = Reducer(tmp_path / "out", tmp_path / "frames", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry()
    frames = open_reduction(tmp_path / "out")["1-g/2023-12-31/frames"]
    assert np.count_nonzero(frames["flags"].to_numpy() & np.uint32(UNUSABLE)) == 0
    curves = light_curves(tmp_path / "out", "1:g").load()
    x, y, flux = (truth[name].to_numpy() for name in ("x", "y", "flux"))
    on_frame = (curves["flags"].to_numpy() & np.uint32(SourceFlag.OFF_FRAME | SourceFlag.EDGE)) == 0
    stars = []
    for source in range(curves.sizes["source"]):
        seen = on_frame[:, source]
        away = np.hypot(curves["x"].to_numpy()[:, source, None] - x, curves["y"].to_numpy()[:, source, None] - y)
        star = int(np.argmin(np.median(away[seen], axis=0)))
        assert away[seen, star].max() < 1.0
        total = (curves["flux"] * curves["aperture_correction"]).to_numpy()[seen, source]
        # the next star is 14 % brighter or fainter
        assert abs(np.median(total / flux[0, seen, star]) - 1.0) < 0.02
        stars.append(star)
    assert len(set(stars)) == len(stars) >= 14
    is_cloud = (curves["quality_flags"].to_numpy() & QualityFlag.CLOUD) != 0
    transmission = truth["transmission"].to_numpy()
    assert is_cloud[transmission < 0.8].all()
    assert not is_cloud[transmission > 0.95].any()
