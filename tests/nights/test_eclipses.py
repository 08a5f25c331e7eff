"""What a star has in a frame does not depend on what it has in others, nor on what its neighbours have.

The sky is that of pixels away from all sources of the catalogue, also of those that are not detected in a frame: in
eclipse, behind cloud, near the edge of the frame.
"""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from small_nights import FIELD, NIGHT, add_star, read_out, reduce_frames, reducer_of, write_frame

from opticam_dask import AperturePhotometer, DefaultLocalBackground, OptimalPhotometer
from opticam_dask.flags import SourceFlag

PHOTOMETERS = [AperturePhotometer(), OptimalPhotometer()]
LABELS = ["aperture", "optimal"]
N_FRAMES, IN_ECLIPSE, IN_FLARE = 24, slice(8, 16), slice(18, 21)
#: The star of 30000 electrons that is eclipsed, a steady one 30 pixels from it, one that flares, and one 30 pixels off.
ECLIPSED, STEADY, FLARING, BESIDE = (102.2, 103.6), (72.6, 99.0), (142.9, 47.4), (170.5, 58.0)


@pytest.fixture(scope="module")
def eclipse(tmp_path_factory):
    """A total eclipse, and a flare of 25 times the flux of its star."""
    directory, rng = tmp_path_factory.mktemp("eclipse"), np.random.default_rng(3)
    stars = [*FIELD, (*STEADY, 6e3), (*BESIDE, 6e3)]
    for frame in range(N_FRAMES):
        image, (dx, dy) = np.full((200, 200), 100.0), rng.normal(0, 0.6, 2)
        for x, y, flux in stars:
            factor = 1.0
            if (x, y) == ECLIPSED and frame in range(N_FRAMES)[IN_ECLIPSE]:
                factor = 0.0
            if (x, y) == FLARING and frame in range(N_FRAMES)[IN_FLARE]:
                factor = 25.0
            add_star(image, x + dx, y + dy, factor * flux)
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    return reduce_frames(
        directory, *PHOTOMETERS, AperturePhotometer(local_background_estimator=DefaultLocalBackground())
    )


def _mean(curves, source, frames):
    """Mean flux in some frames, and its error."""
    error = curves["total_err"].to_numpy()[frames, source]
    return curves["total"].to_numpy()[frames, source].mean(), np.sqrt(np.sum(error**2)) / len(error)


@pytest.mark.parametrize("label", LABELS)
def test_star_in_total_eclipse__has_no_flux(eclipse, label):
    flux, error = _mean(eclipse.curves(label), eclipse.source_at(*ECLIPSED), IN_ECLIPSE)
    assert abs(flux) < 3 * error
    assert error < 60  # electrons: of a star of 30000


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(("place", "frames"), [(STEADY, IN_ECLIPSE), (BESIDE, IN_FLARE), (ECLIPSED, IN_FLARE)])
def test_steady_star__does_not_change_with_its_neighbour(eclipse, label, place, frames):
    curves, source = eclipse.curves(label), eclipse.source_at(*place)
    others = np.setdiff1d(np.arange(N_FRAMES), np.r_[IN_ECLIPSE, IN_FLARE])
    (then, its_error), (before, error) = _mean(curves, source, frames), _mean(curves, source, others)
    assert abs(then - before) < 3 * np.hypot(its_error, error)


@pytest.mark.parametrize("label", LABELS)
def test_star_in_outburst__has_all_its_flux(eclipse, label):
    flux, error = _mean(eclipse.curves(label), eclipse.source_at(*FLARING), IN_FLARE)
    assert abs(flux / (25 * 8e3) - 1) < 0.01 + 3 * error / flux


def test_sky_of_the_mesh__gives_what_an_annulus_gives(eclipse):
    mesh, annulus = eclipse.curves("aperture"), eclipse.curves("aperture_annulus")
    source = eclipse.source_at(*ECLIPSED)
    (flux, error), (expected, its_error) = (_mean(curves, source, IN_ECLIPSE) for curves in (mesh, annulus))
    assert abs(flux - expected) < 3 * np.hypot(error, its_error)


def test_older_store__without_counts_of_sky_pixels_measures_what_is_there(eclipse):
    group = zarr.open_group(eclipse.out / "reduction.zarr")[f"1-V/{NIGHT}/background"]
    kept = {name: group[name][...] for name in ("background_mean_mesh", "background_n_sky")}
    try:
        group["background_mean_mesh"][...], group["background_n_sky"][...] = np.nan, 0
        reducer_of(eclipse.out.parent).photometry(OptimalPhotometer(forced=True))
    finally:
        for name, values in kept.items():
            group[name][...] = values
    flux, error = _mean(eclipse.curves("forced_optimal"), eclipse.source_at(*ECLIPSED), IN_ECLIPSE)
    assert abs(flux) < 3 * error


@pytest.fixture(scope="module")
def drift(tmp_path_factory):
    """A bright star drifts into the border in which nothing is detected; a faint one stays 25 pixels from it."""
    directory, rng = tmp_path_factory.mktemp("drift"), np.random.default_rng(7)
    stars = [(60.3, 100.2, 1.5e5), (120.4, 60.7, 6e4), (150.2, 140.6, 5e4), (110.8, 160.1, 4e4), (160.5, 50.3, 3e4),
             (130.9, 110.4, 2.5e4), (78.0, 117.0, 6e3)]  # fmt: skip
    for frame in range(N_FRAMES):
        image, (dx, dy) = np.full((200, 200), 100.0), rng.normal(0, 0.2, 2)
        for x, y, flux in stars:
            add_star(image, x + dx - 51.0 * frame / (N_FRAMES - 1), y + dy, flux)
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame)
    return reduce_frames(directory, *PHOTOMETERS)


@pytest.mark.parametrize("label", LABELS)
def test_star_near_the_edge__keeps_its_flux_and_its_neighbour_does_too(drift, label):
    curves = drift.curves(label)
    star = int(np.argmax(np.nanmedian(curves["total"].to_numpy(), axis=0)))
    x, y = (curves[name].to_numpy() for name in "xy")
    away = np.hypot(x - x[:, [star]] - 17.7, y - y[:, [star]] - 16.8)
    faint = int(np.argmin(np.nanmedian(away, axis=0)))
    assert np.nanmedian(away[:, faint]) < 1.0
    inside, outside = (
        np.flatnonzero(x[:, star] > 30),
        np.flatnonzero((x[:, star] > 7) & (x[:, star] < 11.5)),
    )  # the border is 12
    assert np.all(curves["flags"].to_numpy()[outside, star] & np.uint32(SourceFlag.NOT_DETECTED))
    for source, share in ((star, 0.01), (faint, 0.0)):
        (then, its_error), (before, error) = _mean(curves, source, outside), _mean(curves, source, inside)
        assert abs(then - before) < share * before + 3 * np.hypot(its_error, error)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """Faint stars behind cloud (a tenth to a half of the light) and in shorter exposures."""
    directory, rng = tmp_path_factory.mktemp("cloud"), np.random.default_rng(5)
    faint = [(x + rng.uniform(-5, 5), y + rng.uniform(-5, 5), rng.uniform(700, 3000))
             for x in range(20, 200, 27) for y in range(20, 200, 27)]  # fmt: skip
    faint = [star for star in faint if np.min(np.hypot(*(FIELD[:, :2] - star[:2]).T)) > 14]
    factors = np.ones(N_FRAMES)
    factors[8:16], factors[16:] = rng.uniform(0.1, 0.5, 8), 0.25
    for frame, factor in enumerate(factors):
        exposure = 1.25 if frame >= 16 else 5.0
        image = np.full((200, 200), 100.0 * exposure / 5.0)
        dx, dy = rng.normal(0, 0.6, 2)
        for x, y, flux in [*FIELD, *faint]:
            add_star(image, x + dx, y + dy, factor * flux)
        write_frame(directory / "frames" / f"f{frame:03d}.fits", read_out(image, rng), 10.0 * frame, EXPTIME=exposure)
    return reduce_frames(directory, *PHOTOMETERS), np.array(faint), factors


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("frames", [slice(0, 8), slice(8, 16), slice(16, 24)], ids=["clear", "cloud", "short"])
def test_faint_stars__are_right_in_the_mean_behind_cloud_and_in_short_exposures(cloud, label, frames):
    night, stars, factors = cloud
    curves, pulls = night.curves(label), []
    away = np.hypot(*(night.catalog[name].to_numpy()[:, None] - stars[:, axis] for axis, name in enumerate("xy")))
    for source, star in zip(*np.nonzero(away < 1.5), strict=True):
        pull = (curves["total"].to_numpy()[:, source] - factors * stars[star, 2]) / curves["total_err"].to_numpy()[
            :, source
        ]
        pulls.append(pull[frames])
    pulls = np.array(pulls)
    assert len(pulls) > 25
    assert abs(pulls.mean()) < 0.1 + 1.0 / np.sqrt(pulls.size)
    assert 0.85 < pulls.std() < 1.15
