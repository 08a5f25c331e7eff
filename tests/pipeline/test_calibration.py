"""Bias, dark and flat frames: masters against the simulated detector, and reductions with them."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from opticam_dask import (
    OPTICAM_MX,
    AperturePhotometer,
    BiasCorrector,
    DarkNoiseCorrector,
    FlatFieldCorrector,
    Reducer,
    cli,
    simulate_calibration_frames,
    simulate_observations,
)
from opticam_dask.cluster import connections, executors
from opticam_dask.flags import SourceFlag
from opticam_dask.frames.instruments import Instrument
from opticam_dask.frames.scanning import find_files, scan
from opticam_dask.frames.simulation.field_model import FieldModel
from opticam_dask.frames.simulation.simulated_detectors import draw_detector
from opticam_dask.kernels.images import calibrate
from opticam_dask.lightcurves import results
from opticam_dask.parameters import ReductionParameters
from opticam_dask.passes import calibration
from opticam_dask.passes.calibration import Calibration, find_calibration_frames
from opticam_dask.pipeline import driver
from opticam_dask.pipeline.driver import Setup, Silent, WrongParameters
from opticam_dask.pipeline.reduction import ReductionError
from opticam_dask.pipeline.stages import master_frames, master_strips
from opticam_dask.steps.calibrate import load_image
from opticam_dask.steps.frame_steps import entry_of
from opticam_dask.store import integrity
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

SHAPE, GAIN = (120, 136), 2.0
MODEL = {
    "n_frames": 8, "shape": SHAPE, "n_sources": 6, "filters": ("g", "r"), "lags": (0.0, 0.0), "flux_range": (4e4, 4e5),
    "fwhm": 4.0, "gain": GAIN, "read_noise": 4.0, "dark_current": 2.0, "flat_structure": 0.03, "vignetting": 0.3,
    "bias_structure": 4.0, "dead_pixels": 6, "hot_pixels": 6, "exposure_time": 5.0, "seed": 3,
}  # fmt: skip
GROUPS = {"bias": "bias_1_136x120_4x4", "dark": "dark_1_136x120_4x4", "flat": "flat_1-g_136x120_4x4"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two cameras: frames, truth, and the folders of the calibration frames."""
    root = tmp_path_factory.mktemp("calibration")
    truth = simulate_observations(root / "frames", **MODEL)
    return root / "frames", truth, simulate_calibration_frames(root, n_exposures=24, **MODEL)


def _options(folders, kinds=("bias", "dark", "flat")):
    return {calibration.PLURAL[kind]: folders[kind] for kind in kinds}


def _reducer(out, frames, **options):
    return Reducer(out, frames, client="none", figures=False, verbose=False, **options)


def _reduce(out, frames, **options):
    reducer = _reducer(out, frames, **options)
    reducer.create_catalogs()
    reducer.photometry()
    return Store.at(out).path


@pytest.fixture(scope="module")
def reduced(data, tmp_path_factory):
    frames, _, folders = data
    return _reduce(tmp_path_factory.mktemp("reduced") / "out", frames, **_options(folders))


def _setup(out, folders, kinds=("bias", "dark", "flat"), **options):
    found = [find_calibration_frames(kind, folders[kind], OPTICAM_MX()) for kind in kinds]
    return Setup(out, OPTICAM_MX(), ReductionParameters(), calibration=Calibration.of(*found), **options)


def _master(path, kind):
    return Group(path, f"calibration/{GROUPS[kind]}").read_all()


# ---------------------------------------------------------------- masters


def _pulls(found, variance, truth, fit):
    return ((found - truth) / np.sqrt(variance))[fit]


def test_masters__are_the_detector_within_their_variance(reduced):
    detector = draw_detector(FieldModel(**{name: MODEL[name] for name in MODEL if name != "seed"}), 0, MODEL["seed"])
    bias, dark, flat = (_master(reduced, kind) for kind in ("bias", "dark", "flat"))
    everywhere = bias["bias_variance"] > 0
    good = ~(dark["hot_pixels"] | flat["bad_responses"])
    # the median of noisy flats is not that of the response to the last 1e-4: one factor for all pixels
    factor = np.median((flat["flat"] / detector.response)[good])
    for pulls in (
        _pulls(bias["bias"], bias["bias_variance"], detector.bias, everywhere),
        _pulls(dark["dark"], dark["dark_variance"], detector.dark_current / GAIN, good),
        _pulls(flat["flat"] / factor, flat["flat_variance"], detector.response, good),
    ):
        # the variance of 24 frames is itself uncertain: Student's distribution of 23 degrees of freedom
        assert abs(pulls.std() / np.sqrt(23 / 21) - 1) < 0.03
        assert abs(pulls.mean()) < 0.05


def test_masters__variances_are_those_of_theory(reduced):
    bias, dark, flat = (_master(reduced, kind) for kind in ("bias", "dark", "flat"))
    rounding = 1.0 / 12.0
    of_bias = ((4.0 / GAIN) ** 2 + rounding) / 24
    assert abs(bias["bias_variance"].mean() / of_bias - 1) < 0.03
    # darks of 20 s: the photons of the dark current, the read-out of each, and the bias
    of_dark = ((2.0 * 20 + 16.0) / GAIN**2 + rounding) / 24 / 20**2 + of_bias / 20**2
    assert abs(np.median(dark["dark_variance"]) / of_dark - 1) < 0.05
    # flats of 20000 electrons at response 1
    response = flat["flat"]
    of_flat = (2e4 * response + 2.0 * 2 + 16.0) / 24 / 2e4**2
    good = ~flat["bad_responses"]
    assert abs(np.median((flat["flat_variance"] / of_flat)[good]) - 1) < 0.05


def test_masters__bad_pixels_are_the_dead_and_the_hot(reduced):
    detector = draw_detector(FieldModel(**{name: MODEL[name] for name in MODEL if name != "seed"}), 0, MODEL["seed"])
    hot, bad = _master(reduced, "dark")["hot_pixels"], _master(reduced, "flat")["bad_responses"]
    assert np.array_equal(hot, detector.dark_current > MODEL["dark_current"])
    assert np.array_equal(bad & ~hot, (detector.response < 0.2) & ~hot)


def test_masters__do_not_depend_on_strips_or_workers(data, reduced, tmp_path, monkeypatch):
    frames, _, folders = data
    monkeypatch.setattr(master_strips, "_STRIP_PIXELS", 24 * SHAPE[1] * 7)
    setup = _setup(tmp_path / "out", folders)
    driver.prepare(setup, scan(find_files(frames), setup.instrument))
    with connections.connect("local", n_workers=2) as executor:
        driver.make_masters(setup, executor, Silent())
    for kind in GROUPS:
        for name, values in _master(reduced, kind).items():
            np.testing.assert_array_equal(_master(setup.path, kind)[name], values, err_msg=name)


def test_masters__frames_that_are_no_use_are_left_out_and_named(data, tmp_path):
    frames, _, folders = data
    flats = tmp_path / "flats"
    shutil.copytree(folders["flat"], flats)
    files = sorted(flats.glob("*_g_*.fits"))
    with fits.open(files[3], mode="update") as hdus:
        hdus[0].data[:] = 65535
    files[5].write_bytes(files[5].read_bytes()[:9000])

    class Notes(Silent):
        def __init__(self):
            self.lines = []

        def tell(self, message):
            self.lines.append(message)

    setup = _setup(tmp_path / "out", folders | {"flat": flats})
    driver.prepare(setup, scan(find_files(frames), setup.instrument))
    notes = Notes()
    driver.make_masters(setup, executors.InProcess(), notes)
    left_out = [line for line in notes.lines if line.startswith("Left out")]
    assert len(left_out) == 1
    assert files[3].name in left_out[0]
    assert "at or above 65535" in left_out[0]
    assert [file for file, _ in setup.calibration.frames["flat"].set_aside] == [str(files[5])]
    flat = Group(setup.path, f"calibration/{GROUPS['flat']}").attributes
    assert flat["n_frames"] == 22
    assert not {files[3].name, files[5].name} & {entry["file"] for entry in flat["files"]}


# ---------------------------------------------------------------- frames


def test_frame__is_the_sky_within_its_noise(tmp_path):
    # no stars to speak of: every pixel is sky, and known
    model = MODEL | {"n_frames": 4, "flux_range": (1.0, 1.0), "n_sources": 1, "filters": ("g",), "sky": 400.0}
    simulate_observations(tmp_path / "frames", **model)
    folders = simulate_calibration_frames(tmp_path, n_exposures=40, **model)
    setup = _setup(tmp_path / "out", folders)
    driver.prepare(setup, scan(find_files(tmp_path / "frames"), setup.instrument))
    driver.make_masters(setup, executors.InProcess(), Silent())
    part = Store(setup.path).camera("1:g").parts[0]
    steps, manifest = setup.steps_of(part), part.manifest()
    masters = steps.read_masters()
    bias, dark = _master(setup.path, "bias"), _master(setup.path, "dark")
    pulls = []
    for index in range(4):
        image = load_image(steps, entry_of(manifest, index)).electrons
        assert np.array_equal(np.isnan(image), masters.bad_pixels)
        counted = 400.0 * masters.flat + 5.0 * dark["dark"] * GAIN + 16.0 + GAIN**2 / 12
        of_masters = GAIN**2 * (bias["bias_variance"] + 25.0 * dark["dark_variance"])
        variance = (counted + of_masters) / masters.flat**2 + 400.0**2 * masters.flat_variance / masters.flat**2
        pulls.append(((image - 400.0) / np.sqrt(variance))[~masters.bad_pixels])
    pulls = np.concatenate(pulls)
    assert 0.97 < pulls.std() < 1.03
    assert abs(pulls.mean()) < 0.05


@pytest.mark.parametrize("rebin", [1, 2])
def test_reduction__fluxes_are_those_of_the_truth(tmp_path, rebin):
    # large enough for the wings of the profile in rebinned pixels
    model = MODEL | {"shape": (224, 240), "filters": ("g",), "n_frames": 4}
    truth = simulate_observations(tmp_path / "frames", **model)
    folders = simulate_calibration_frames(tmp_path, n_exposures=24, **model)
    path = _reduce(tmp_path / "out", tmp_path / "frames", **_options(folders), rebin_factor=rebin)
    curves = results.light_curves(path.parent, "1:g").load()
    flux = (curves["flux"] * curves["aperture_correction"]).to_numpy()
    expected = truth["flux"].to_numpy()[0]
    xy = np.column_stack([truth["x"][0], truth["y"][0]])
    for source in range(curves.sizes["source"]):
        here = np.array([curves["x"].to_numpy()[0, source], curves["y"].to_numpy()[0, source]])
        star = int(np.argmin(np.hypot(*(xy - (rebin * (here + 0.5) - 0.5)).T)))
        noise = 4 * curves["flux_err"].to_numpy()[:, source].mean() / np.sqrt(4) / expected[0, star]
        assert abs(flux[:, source].mean() / expected[:, star].mean() - 1) < 0.005 + noise
    relative = curves["flux_err_sys"].to_numpy() / curves["flux"].to_numpy()
    assert np.all((relative > 5e-5) & (relative < 1e-3))  # 0.15 % a pixel over some ten to a hundred pixels


def test_reduction__without_flats_is_wrong_by_the_response(data, reduced, tmp_path):
    frames, _, folders = data
    path = _reduce(tmp_path / "out", frames, **_options(folders, ("bias", "dark")))
    without, with_flat = (results.light_curves(p.parent, "1:g").load() for p in (path, reduced))
    assert "flux_err_sys" not in without
    ratio = (without["flux"] / with_flat["flux"]).mean("frame").to_numpy()
    assert ratio.max() - ratio.min() > 0.02  # vignetting of 30 % in the corners


def test_reduction__cut_outs_and_whole_frames_give_the_same_bits(data, tmp_path):
    frames, _, folders = data
    paths = []
    for whole in (False, True):
        setup = _setup(tmp_path / str(whole), folders)
        driver.prepare(setup, scan(find_files(frames), setup.instrument))
        driver.make_masters(setup, executors.InProcess(), Silent())
        driver.drive(driver.Run(setup, executors.InProcess()), driver.TO_CATALOGS)
        driver.drive(
            driver.Run(
                setup, executors.InProcess(), photometers={"aperture": AperturePhotometer()}, whole_frames=whole
            ),
            driver.TO_LIGHT_CURVES,
        )
        paths.append(setup.path)
    assert integrity.compare(*paths) == []


def test_reduction__bad_pixels_are_flagged_and_made_up_for(reduced):
    curves = results.light_curves(reduced.parent, "1:g").load()
    masters = calibration.read_masters(Store(reduced), tuple(GROUPS.values()), ("test", "test", "test"))
    flagged = (curves["flags"].to_numpy() & SourceFlag.BAD_PIXEL) != 0
    radius = 3.0
    near = np.zeros(flagged.shape, dtype=bool)
    for y, x in zip(*np.nonzero(masters.bad_pixels), strict=True):
        near |= np.hypot(curves["x"].to_numpy() - x, curves["y"].to_numpy() - y) < radius
    assert np.all(flagged[near])
    assert np.isfinite(curves["flux"]).all()


def test_resume__same_calibration_goes_on_and_masters_are_not_made_again(data, reduced, tmp_path):
    frames, _, folders = data
    shutil.copytree(reduced.parent, tmp_path / "out")
    path = Store.at(tmp_path / "out").path
    before = {file: file.stat().st_mtime_ns for file in (path / "calibration").rglob("c/*/*")}
    assert before
    _reduce(tmp_path / "out", frames, **_options(folders))
    assert integrity.compare(reduced, path) == []
    assert {file: file.stat().st_mtime_ns for file in (path / "calibration").rglob("c/*/*")} == before


def test_resume__a_master_that_was_lost_is_made_again(data, reduced, tmp_path):
    frames, _, folders = data
    shutil.copytree(reduced.parent, tmp_path / "out")
    path = Store.at(tmp_path / "out").path
    Group(path, f"calibration/{GROUPS['flat']}").remove()
    _reduce(tmp_path / "out", frames, **_options(folders))
    assert integrity.compare(reduced, path) == []


def test_verify__a_damaged_master_is_found_and_made_again_from_its_frames(data, reduced, tmp_path, capsys):
    frames, _, folders = data
    out = tmp_path / "out"
    shutil.copytree(reduced.parent, out)
    chunk = Store.at(out).path / f"calibration/{GROUPS['flat']}/flat/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 16
    chunk.write_bytes(content)
    assert cli.main(["verify", str(out)]) == 1
    assert "the master, by the same opticam-dask reduce with its calibration frames" in capsys.readouterr().out
    assert cli.main(["verify", str(out), "--repair", "--cluster", "none"]) == 2
    assert "give the flats again (--flats)" in capsys.readouterr().err
    _reduce(out, frames, **_options(folders))
    assert integrity.compare(reduced, Store.at(out).path) == []


def test_resume__other_calibration_is_refused(data, reduced, tmp_path):
    frames, _, folders = data
    shutil.copytree(reduced.parent, tmp_path / "out")
    fewer = tmp_path / "flats"
    shutil.copytree(folders["flat"], fewer)
    next(fewer.glob("*_g_*.fits")).unlink()
    for options in ({}, _options(folders, ("bias", "dark")), _options(folders | {"flat": fewer})):
        with pytest.raises(WrongParameters, match="flats"):
            _reducer(tmp_path / "out", frames, **options).create_catalogs()


def test_photometry__with_other_calibration_than_the_first_pass_is_refused(data, reduced, tmp_path):
    frames, _, _ = data
    shutil.copytree(reduced.parent, tmp_path / "out")
    with pytest.raises(WrongParameters, match="flats"):
        _reducer(tmp_path / "out", frames).photometry(label="again")
    assert Store(reduced).camera("1:g").parts[0].labels == ["aperture"]


# ---------------------------------------------------------------- what does not fit


def _refused(tmp_path, frames, folders, kinds=("bias", "dark", "flat")):
    setup = _setup(tmp_path / "out", folders, kinds)
    driver.prepare(setup, scan(find_files(frames), setup.instrument))
    with pytest.raises(ReductionError) as refusal:
        driver.make_masters(setup, executors.InProcess(), Silent())
    return str(refusal.value)


@pytest.mark.parametrize(("state", "is_told"), [("BF", True), ("", False)])
def test_frames__that_are_calibrated_already_are_told(data, tmp_path, state, is_told):
    frames, _, folders = data
    pixels, header = fits.getdata(min(frames.rglob("*.fit*")), header=True)
    header["CALSTAT"] = state
    (tmp_path / "raw").mkdir()
    fits.writeto(tmp_path / "raw" / "a.fits", pixels, header)
    setup = _setup(tmp_path / "out", folders, ("dark", "flat"))
    driver.prepare(setup, scan(find_files(tmp_path / "raw"), setup.instrument))
    (part,), said = setup.store.cameras[0].parts, []
    master_frames._tell_of_calibrated(setup, setup.calibration.kinds, SimpleNamespace(tell=said.append))
    assert [f"CALSTAT of a.fits says that frames of {part.key} are calibrated already (flat)" in s for s in said] == (
        [True] * is_told
    )


def _some(tmp_path, folder, pattern):
    chosen = tmp_path / f"some_{folder.name}"
    chosen.mkdir()
    for file in folder.glob(pattern):
        shutil.copy(file, chosen)
    return chosen


def test_refusal__a_key_without_flats(data, tmp_path):
    frames, _, folders = data
    told = _refused(tmp_path, frames, folders | {"flat": _some(tmp_path, folders["flat"], "*_g_*.fits")})
    assert "at least two flat frames of 2:r with 136 x 120 pixels, binning 4 are needed, found none" in told
    assert "24 of 1:g (136 x 120, binning 4)" in told


def test_refusal__a_single_frame(data, tmp_path):
    frames, _, folders = data
    told = _refused(tmp_path, frames, folders | {"bias": _some(tmp_path, folders["bias"], "*_0007.fits")})
    assert "at least two bias frames of 1:g" in told
    assert "found only" in told
    assert "bias_1_g_0007.fits" in told


def test_refusal__darks_of_another_exposure_time_without_biases(data, tmp_path):
    frames, _, folders = data
    told = _refused(tmp_path, frames, folders, ("dark",))
    assert "exposures of 5 s, the dark frames of 20 s" in told
    assert "--biases" in told


def test_refusal__flats_of_another_exposure_time_than_darks_without_biases(data, tmp_path):
    frames, _, folders = data
    same = simulate_calibration_frames(tmp_path / "same", n_exposures=3, dark_exposure_time=5.0, **MODEL)
    told = _refused(tmp_path, frames, folders | {"dark": same["dark"]}, ("dark", "flat"))
    assert "flats of 1:g" in told
    assert "2 s, but the darks 5 s" in told


def test_refusal__no_calibration_frame_at_all(tmp_path):
    (tmp_path / "nothing.fits").write_bytes(b"")
    with pytest.raises(calibration.CalibrationError, match="no usable flat frame among 1 file"):
        find_calibration_frames("flat", tmp_path, OPTICAM_MX())


# ---------------------------------------------------------------- image filter, linear range


def _halve_odd_rows(raw):
    filtered = raw.astype(float)
    filtered[1::2] *= 0.5
    return filtered


def test_image_filter__comes_first_and_is_part_of_the_parameters(data, tmp_path):
    frames, _, _ = data

    def doubled_rows(raw):
        return np.repeat(raw[::2], 2, axis=0)

    path = _reduce(tmp_path / "out", frames, image_filter=doubled_rows)
    part = Store(path).camera("1:g").parts[0]
    reducer = _reducer(tmp_path / "out", frames, image_filter=doubled_rows)
    steps = reducer._stored_setup().steps_of(part)
    entry = entry_of(part.manifest(), 0)
    raw = fits.getdata(entry["file"])
    expected = calibrate.to_electrons(doubled_rows(raw), gain=GAIN, dark_current=2.0, exposure_time=5.0)
    np.testing.assert_array_equal(load_image(steps, entry).electrons, expected)
    with pytest.raises(WrongParameters, match="image_filter"):
        _reducer(tmp_path / "out", frames).create_catalogs()
    with pytest.raises(WrongParameters, match="image_filter"):
        _reducer(tmp_path / "out", frames, image_filter=_halve_odd_rows).create_catalogs()


def test_image_filter__that_fails_or_changes_the_shape_is_told(data, tmp_path, capsys):
    frames, _, _ = data
    filters = ((lambda raw: raw[::2], "shape (60, 136) came back"), (lambda raw: 1 / 0, "ZeroDivisionError"))
    for number, (image_filter, told) in enumerate(filters):
        out = tmp_path / str(number)
        reducer = Reducer(out, frames, client="none", figures=False, image_filter=image_filter)
        reducer.create_catalogs()
        assert told in capsys.readouterr().out
    with pytest.raises(TypeError, match="image_filter must be a callable"):
        _reducer(tmp_path, frames, image_filter=3)


def test_linear_range__pixels_above_it_are_flagged(data, tmp_path):
    frames, _, _ = data
    files = sorted(frames.glob("*g2*.fits"))
    brightest = max(int(fits.getdata(file).max()) for file in files)
    instrument = Instrument(**{**OPTICAM_MX().to_dict(), "default_linearity": 0.5 * brightest})
    path = _reduce(tmp_path / "out", files, instrument=instrument)
    curves = results.light_curves(path.parent, "1:g").load()
    flagged = (curves["flags"].to_numpy() & SourceFlag.NON_LINEAR) != 0
    assert flagged[:, 0].all()
    assert not flagged[:, -1].any()
    assert np.isfinite(curves["flux"]).all()


# ---------------------------------------------------------------- correctors alone, command line


def test_correctors__alone_give_what_the_reduction_gives(data, reduced):
    frames, _, folders = data
    bias = BiasCorrector(folders["bias"])
    dark = DarkNoiseCorrector(folders["dark"], bias_corrector=bias)
    flat = FlatFieldCorrector(folders["flat"], bias_corrector=bias, dark_corrector=dark)
    raw = fits.getdata(sorted(frames.glob("*g2*.fits"))[0])
    image, variance = bias.correct(raw, "1:g")
    image, dark_variance = dark.correct(image, "1:g", 5.0)
    image, flat_variance = flat.correct(image, "1:g")
    part = Store(reduced).camera("1:g").parts[0]
    setup = _setup(reduced.parent, folders)
    expected = load_image(setup.steps_of(part), entry_of(part.manifest(), 0)).electrons
    np.testing.assert_allclose(image * GAIN, expected, rtol=1e-6, atol=2e-4)  # masters in the store have 24 bits
    for found in (variance, dark_variance, flat_variance):
        assert np.nanmin(found) >= 0


def test_correctors__say_what_is_wrong():
    with pytest.raises(ValueError, match="directory that holds the flats"):
        FlatFieldCorrector()
    with pytest.raises(TypeError, match="expected a FlatFieldCorrector, got BiasCorrector"):
        Reducer("out", "data", flat_corrector=BiasCorrector("biases"))
    with pytest.raises(ValueError, match="flat frames are given twice"):
        Reducer("out", "data", flats="flats", flat_corrector=FlatFieldCorrector("flats"))


def test_command__reduces_with_calibration_below_the_data(data, reduced, tmp_path, capsys):
    frames, _, folders = data
    night = tmp_path / "night"
    shutil.copytree(frames, night)
    for folder in folders.values():
        shutil.copytree(folder, night / folder.name)
    arguments = ["reduce", night, "--out", tmp_path / "out", "--cluster", "none"]
    for name in ("biases", "darks", "flats"):
        arguments += [f"--{name}", night / name]
    assert cli.main([*map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    assert "8 1:g images." in printed
    assert "Master flat of 2:r with 136 x 120 pixels, binning 4: 24 frames." in printed
    assert "biases 48 frames" in printed
    found = results.light_curves(tmp_path / "out", "1:g").load()
    np.testing.assert_array_equal(found["flux"], results.light_curves(reduced.parent, "1:g")["flux"])
    assert cli.main(["verify", str(tmp_path / "out")]) == 0
    assert cli.main(["reduce", str(night), "--out", str(tmp_path / "out"), "--cluster", "none"]) == 2
    assert "biases" in capsys.readouterr().err
