"""A gain that the noise of the sky contradicts is told; what may be bias, read-out or structure is not."""

import numpy as np
import pytest
from small_nights import FIELD, add_star, read_out, reduce_frames, reducer_of, write_frame

from opticam_dask.kernels.series.photon_transfer import gain_by_noise


def night(sky, *, true_gain=1.0, given=1.0, bias=0.0, read_noise=5.0, response=0.0, seed=2):
    """Level and scatter of frames of a sky (frame,) in electrons, counted with a wrong gain."""
    rng = np.random.default_rng(seed)
    variance = sky + read_noise**2 + (response * sky) ** 2
    factor = given / true_gain
    rms = factor * np.sqrt(variance) * rng.normal(1.0, 0.01, len(sky))
    return factor * sky + bias, rms, np.full(len(sky), read_noise**2)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize(("bias", "changes"), [(0.0, False), (0.0, True), (800.0, True)])
def test_gain__a_wrong_one_is_found(factor, bias, changes):
    sky = np.linspace(1500.0, 4500.0, 30) if changes else np.full(30, 3000.0)
    lowest, highest = gain_by_noise(*night(sky, given=factor, bias=bias), is_bias_off=bias == 0, has_flat=True)
    assert lowest < factor * 1.1
    assert highest > factor / 1.1
    assert lowest > 1.5 if factor > 1.5 else highest < 1.0 / 1.5


@pytest.mark.parametrize(
    ("sky", "options", "is_bias_off", "has_flat"),
    [
        (np.full(10, 300.0), {}, True, False),
        (np.full(10, 300.0), {"bias": 1000.0}, False, False),
        (np.full(10, 3e4), {"response": 0.015}, True, False),
        (np.linspace(1e3, 3e4, 20), {"response": 0.015}, True, False),
        (np.linspace(1e3, 3e4, 20), {"response": 0.003, "bias": 300.0}, False, True),
        (np.full(10, 30.0), {"read_noise": 12.0}, True, True),
        (np.full(0, 30.0), {}, True, True),
    ],
)
def test_gain__a_right_one_is_not_doubted(sky, options, is_bias_off, has_flat):
    lowest, highest = gain_by_noise(*night(sky, **options), is_bias_off=is_bias_off, has_flat=has_flat)
    assert lowest < 1.5
    assert highest > 1.0 / 1.5


@pytest.mark.slow
@pytest.mark.parametrize(("given", "is_told"), [(4.0, True), (1.0, False)])
def test_gain__the_run_says_so(tmp_path, capsys, given, is_told):
    rng = np.random.default_rng(5)
    for frame in range(3):
        image = np.full((120, 120), 500.0)
        for x, y, flux in FIELD:
            add_star(image, x / 2 + 15, y / 2 + 15, flux)
        write_frame(tmp_path / "frames" / f"f{frame}.fits", read_out(image, rng), 10.0 * frame)
    reduce_frames(tmp_path, verbose=True, instrument={"default_gain": given})
    said = " ".join(capsys.readouterr().out.split())
    assert ("the gain of 4 electrons per ADU does not fit the noise of the sky, which says at most" in said) == is_told


def test_gain__of_pixels_that_a_program_has_divided_is_told(tmp_path, capsys):
    rng = np.random.default_rng(5)
    for frame in range(3):
        image = np.full((80, 80), 500.0)
        for x, y, flux in ((20.2, 21.3, 1e5), (60.7, 30.1, 5e4), (35.5, 61.0, 4e4)):
            add_star(image, x, y, flux)
        pixels = (read_out(image, rng) / 65535.0).astype(np.float32)  # as PixInsight and Siril write them
        write_frame(tmp_path / "frames" / f"f{frame}.fits", pixels, 10.0 * frame)
    reducer_of(tmp_path, verbose=True).create_catalogs()
    said = " ".join(capsys.readouterr().out.split())
    assert "less than the 3 of the detector without light: the gain is at least" in said


@pytest.mark.parametrize(("step", "is_told"), [(40.0, True), (15.0, False)])
def test_values__that_are_coarser_than_the_noise_of_the_sky_are_told(tmp_path, capsys, step, is_told):
    """Frames of eight bits: the sky scatters by 10 electrons."""
    rng = np.random.default_rng(5)
    for frame in range(3):
        image = np.full((80, 80), 100.0)
        for x, y in ((20.3, 22.1), (55.2, 30.4), (35.7, 58.2)):
            add_star(image, x, y, 4e4)
        pixels = np.clip(np.rint(rng.poisson(image) / step + 5.3), 0, 255).astype(np.uint8)
        write_frame(tmp_path / "frames" / f"f{frame}.fits", pixels, 10.0 * frame)
    reducer = reducer_of(tmp_path, verbose=True, instrument={"default_gain": step, "default_saturation": 255.0})
    reducer.create_catalogs()
    said = " ".join(capsys.readouterr().out.split())
    assert (f"of a step between two of them ({step:g} electrons)" in said) == is_told
