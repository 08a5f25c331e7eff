"""Marks of observers: put on frames, measurements and comparisons, taken back, and honoured by every product."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import xarray as xr
from astropy.table import Table

import opticam_dask as opticam
from opticam_dask import cli
from opticam_dask.display.report import measurements
from opticam_dask.flags import Mark, SourceFlag
from opticam_dask.lightcurves.differential import keep_relative_light_curve, write_relative_light_curve
from opticam_dask.lightcurves.exports import export_differential
from opticam_dask.lightcurves.fitting.outcome import OLD_FIT, keep_fit
from opticam_dask.lightcurves.reading import opening
from opticam_dask.store import integrity, ownership
from opticam_dask.store.groups import Group
from opticam_dask.store.store import Store

KEY = "1:g"


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    top = tmp_path_factory.mktemp("marks")
    opticam.simulate_observations(
        top / "data", n_frames=20, shape=(128, 128), n_sources=8, filters=("g",), flux_range=(3e4, 2e5), seed=5
    )
    reducer = opticam.Reducer(top / "out", top / "data", client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry([opticam.AperturePhotometer(), opticam.OptimalPhotometer()])
    return top / "out"


@pytest.fixture
def out(reduced, tmp_path):
    return shutil.copytree(reduced, tmp_path / "out")


def _curves(out, label="aperture"):
    return opticam.light_curves(out, KEY, label).load()


def _files(out):
    return [str(name) for name in Store.open(out).camera(KEY).parts[0].frames["file"]]


def test_mark__frames_have_no_flux_in_any_label_and_their_flags_stay(out, reduced):
    (number,) = opticam.mark(out, "cloud", KEY, frames=[_files(out)[3]], why="cirrus", who="Ada")
    for label in ("aperture", "optimal"):
        before, now = _curves(reduced, label), _curves(out, label)
        assert np.isnan(now["flux"].to_numpy()[3]).all()
        assert np.isnan(now["flux_err"].to_numpy()[3]).all()
        others = np.delete(np.arange(20), 3)
        np.testing.assert_array_equal(now["flux"].to_numpy()[others], before["flux"].to_numpy()[others])
        np.testing.assert_array_equal(now["flags"], before["flags"])
        assert now["marks"].to_numpy()[3] == Mark.CLOUD
        assert now["marks"].attrs["flag_meanings"] == "cloud junk keep"
    row = opticam.marks(out).loc[number]
    assert (row["kind"], row["who"], row["why"]) == ("cloud", "Ada", "cirrus")


def test_mark__one_measurement_of_one_label(out, reduced):
    opticam.mark(out, "junk", KEY, frames=[_files(out)[5]], sources=[2], label="aperture")
    flux = _curves(out)["flux"]
    assert np.isnan(flux.sel(source=2).to_numpy()[5])
    assert np.isfinite(np.delete(flux.to_numpy().ravel(), 5 * flux.sizes["source"] + 1)).all()
    assert "marks" not in _curves(out, "optimal")


def test_mark__times_include_their_ends_and_may_be_dates(out):
    times = _curves(out)["time"].to_numpy()
    opticam.mark(out, "cloud", KEY, times=(times[4], str(times[8])))
    is_out = np.isnan(_curves(out)["flux"].to_numpy()).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(is_out), [4, 5, 6, 7, 8])


def test_keep__measurements_of_a_marked_frame(out):
    file = _files(out)[3]
    opticam.mark(out, "cloud", KEY, frames=[file])
    opticam.mark(out, "keep", KEY, frames=[file], sources=[1])
    row = np.isnan(_curves(out)["flux"].to_numpy()[3])
    assert not row[0]
    assert row[1:].all()


def test_keep__is_no_outlier(out, reduced):
    def outliers(directory):
        curve = opticam.relative_light_curve(directory, KEY, 2, [1, 3], outliers=0.5)  # so that some are
        return curve["mjd_utc"].to_numpy()[(curve["flags"].to_numpy() & SourceFlag.OUTLIER) != 0], curve

    times, before = outliers(reduced)
    opticam.mark(out, "keep", KEY, times=(times[0], times[0]), sources=[2])
    left, after = outliers(out)
    np.testing.assert_array_equal(left, times[1:])
    np.testing.assert_array_equal(after["relative_flux"], before["relative_flux"])


def test_products__leave_marked_measurements_out(out):
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]])
    curve = opticam.relative_light_curve(out, KEY, 2, [1, 3])
    assert np.flatnonzero(np.isnan(curve["relative_flux"])).tolist() == [7]
    assert curve["marks"].to_numpy()[7] == Mark.JUNK
    for group in opening.curves_of_source_groups(out, KEY, "aperture", ["flux", "flags"]):
        assert np.flatnonzero(np.isnan(group["flux"].to_numpy()).all(axis=1)).tolist() == [7]
    file = next(file for file in opticam.export_light_curves(out, "ecsv", key=KEY) if "source_2" in file.name)
    table = Table.read(file)
    assert np.flatnonzero(np.isnan(np.ma.filled(table["flux"], np.nan))).tolist() == [7]


def test_kept_light_curves__are_without_what_is_marked_later(out):
    """Also where the mark is on a comparison; one that the light curve knew of does not matter.

    Those of older versions do not say how they were made: they are masked, and not made again.
    """
    opticam.mark(out, "junk", KEY, frames=[_files(out)[2]], sources=[3])
    curve = opticam.relative_light_curve(out, KEY, 2, [1, 3], weighting="optimal")
    assert np.isfinite(curve["relative_flux"]).all()
    del curve.attrs["made_with"]
    keep_relative_light_curve(curve, out, "star")
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]])
    opticam.mark(out, "cloud", KEY, frames=[_files(out)[9]], sources=[3])
    opticam.mark(out, "junk", KEY, frames=[_files(out)[11]], sources=[5])
    kept = opticam.differential_light_curves(out, KEY)["star"].load()
    for name in ("relative_flux", "relative_flux_err"):
        assert np.flatnonzero(np.isnan(kept[name])).tolist() == [7, 9]
    assert cli.main(["submit", str(out), "--format", "etd", "--name", "star"]) == 0
    rows = np.loadtxt(out / "submissions" / "star_1-g_etd.txt")
    np.testing.assert_allclose(rows[:, 0], np.delete(curve["mjd_utc"].to_numpy(), [7, 9]) + 2400000.5, atol=1e-6)
    (file,) = export_differential(out, "ecsv")
    assert np.flatnonzero(np.isnan(np.ma.filled(Table.read(file)["relative_flux"], np.nan))).tolist() == [7, 9]


def test_kept_light_curves__are_made_again_with_every_mark_and_after_it_is_taken_back(out):
    curve = opticam.relative_light_curve(out, KEY, 2, "auto")
    keep_relative_light_curve(curve, out, "star")
    file = write_relative_light_curve(curve, out, "star")
    before, fluxes = opticam.differential_light_curves(out, KEY)["star"].load(), file.read_bytes()
    other = before.attrs["comparisons"][0]
    opticam.mark(out, "cloud", KEY, frames=[_files(out)[3]])
    opticam.mark(out, "junk", KEY, frames=[_files(out)[5]], sources=[2])
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]], sources=[other])
    assert _left_out(out, file) == [3, 5, 7]
    opticam.mark(out, "junk", KEY, sources=[other])
    assert _left_out(out, file) == [3, 5], "the comparison is another one"
    opticam.mark(out, "junk", KEY, sources=range(1, before.attrs["target"]), label="optimal")
    assert _left_out(out, file) == [3, 5]
    opticam.unmark(out, opticam.marks(out).index.tolist())
    assert opticam.differential_light_curves(out, KEY)["star"].load().drop_attrs().identical(before.drop_attrs())
    assert file.read_bytes() == fluxes
    with pytest.warns(UserWarning, match="'star' cannot be made again: no source is fit as a comparison"):
        opticam.mark(
            out, "junk", KEY, sources=[number for number in _curves(out)["source_id"].to_numpy() if number != 2]
        )


def test_kept_light_curves__that_were_asked_for_in_numbers_of_numpy_are_made_again(out):
    days = _curves(out)["bmjd_tdb"].to_numpy()
    days = days[:, 0] if days.ndim > 1 else days
    how = {"detrend": ["time"], "detrend_without": days[[5, 9]], "shared_trends": np.False_, "outliers": np.float32(6)}
    curve = opticam.relative_light_curve(out, KEY, np.int64(2), np.array([1, 3]), **how)
    keep_relative_light_curve(curve, out, "star")
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]], sources=[3])
    kept = opticam.differential_light_curves(out, KEY)["star"].load()
    xr.testing.assert_equal(kept, opticam.relative_light_curve(out, KEY, 2, [1, 3], **how)[list(kept)])


@pytest.fixture
def fitted(out):
    """A reduction that keeps a light curve of source 2 against 1 and 3, with a fit."""
    curve = opticam.relative_light_curve(out, KEY, 2, [1, 3])
    keep_relative_light_curve(curve, out, "star")
    days = curve["mjd_utc"].to_numpy()
    keep_fit(opticam.fit_sinusoid(curve.assign_coords(bmjd_tdb=("frame", days)), n_steps=0), out, "star")
    return out


def _is_old(out):
    return OLD_FIT in opticam.fits_in_store(out, KEY)["star"].attrs.get("notes", "")


def test_fits__are_old_only_while_the_light_curve_is_not_the_one_that_was_fitted(fitted):
    before = opticam.fits_in_store(fitted, KEY)["star"]
    opticam.mark(fitted, "junk", KEY, frames=[_files(fitted)[7]], sources=[5])
    assert not _is_old(fitted), "source 5 is neither target nor comparison"
    numbers = opticam.mark(fitted, "junk", KEY, frames=[_files(fitted)[7]], sources=[3])
    numbers += opticam.mark(fitted, "junk", KEY, frames=[_files(fitted)[9]])
    assert _is_old(fitted)
    opened = opticam.open_reduction(fitted)["1-g/differential/star"]
    assert "fit" in opened.children
    assert np.flatnonzero(np.isnan(opened["relative_flux"])).tolist() == [7, 9]
    opticam.unmark(fitted, numbers[:1])
    assert _is_old(fitted)
    opticam.unmark(fitted, numbers[1:])
    assert not _is_old(fitted)
    assert opticam.fits_in_store(fitted, KEY)["star"].drop_attrs().identical(before.drop_attrs())


def test_kept_light_curves__and_their_fits_outlive_an_interrupted_mark(fitted, monkeypatch):
    def stopped(self, arrays):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Group, "extend", stopped)
        with pytest.raises(KeyboardInterrupt):
            opticam.mark(fitted, "junk", KEY, frames=[_files(fitted)[7]])
    assert opticam.differential_light_curves(fitted, KEY) == {}, "what is half written is not shown"
    assert integrity.find_damage(Store.open(fitted).path) == []
    opticam.mark(fitted, "junk", KEY, frames=[_files(fitted)[9]])
    kept = opticam.differential_light_curves(fitted, KEY)["star"].load()
    assert np.flatnonzero(np.isnan(kept["relative_flux"])).tolist() == [7, 9]
    assert _is_old(fitted)
    opticam.unmark(fitted, opticam.marks(fitted).index.tolist())
    assert not _is_old(fitted)


def test_files__of_relative_fluxes_are_not_written_from_magnitudes_of_the_same_name(out):
    curve = opticam.relative_light_curve(out, KEY, 2, [1, 3])
    file = write_relative_light_curve(curve, out, "star")
    before = file.read_bytes()
    magnitudes = dict.fromkeys(("magnitude", "magnitude_err", "magnitude_limit"), curve["relative_flux"])
    curve.attrs.pop("made_with")
    keep_relative_light_curve(curve.assign(magnitudes), out, "star")
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]])
    assert file.read_bytes() == before


def _left_out(out, file):
    """Frames without flux, in the store and in the file."""
    kept = opticam.differential_light_curves(out, KEY)["star"]["relative_flux"]
    table = Table.read(file)
    assert np.flatnonzero(np.ma.getmaskarray(table["rel_flux"])).tolist() == np.flatnonzero(np.isnan(kept)).tolist()
    return np.flatnonzero(np.isnan(kept)).tolist()


def test_report__leaves_marked_measurements_out(out):
    opticam.mark(out, "junk", KEY, frames=[_files(out)[7]], sources=[2])
    parts = {KEY: Store.open(out).camera(KEY).parts}
    of_aperture, of_optimal = measurements.curves(parts, {}, 3)
    gone = [np.flatnonzero(np.isnan(column.middle)).tolist() for column in of_aperture.nights[0][1]]
    assert gone == [[], [7], []]
    assert np.isnan(of_optimal.nights[0][1][1].error[7])


def test_files_of_light_curves__leave_marked_measurements_out_at_once_and_take_them_back(out):
    file = out / "lcs" / "aperture" / "1-g_source_2.csv"
    before = file.read_bytes()
    (junk,) = opticam.mark(out, "junk", KEY, frames=[_files(out)[7]], sources=[2])
    opticam.mark(out, "cloud", KEY, frames=[_files(out)[3]])
    opticam.mark(out, "keep", KEY, frames=[_files(out)[3]], sources=[1])
    written = {number: Table.read(file.with_name(f"1-g_source_{number}.csv")) for number in (1, 2, 3)}
    gone = {number: np.flatnonzero(np.ma.getmaskarray(table["flux"])).tolist() for number, table in written.items()}
    assert gone == {1: [], 2: [3, 7], 3: [3]}
    assert np.ma.getmaskarray(written[2]["flux_err"]).nonzero()[0].tolist() == [3, 7]
    assert not np.ma.getmaskarray(written[2]["flags"]).any()
    opticam.unmark(out, [junk, junk + 1, junk + 2])
    assert file.read_bytes() == before


def test_comparisons__marked_ones_and_those_left_out_are_not_chosen(out):
    usual = opticam.relative_light_curve(out, KEY, 2, "auto").attrs["comparisons"]
    without = opticam.relative_light_curve(out, KEY, 2, "auto", without=usual[:2])
    assert not set(usual[:2]) & set(without.attrs["comparisons"])
    assert any("left out as asked for" in line for line in without.attrs["choice"].splitlines())
    opticam.mark(out, "junk", KEY, sources=usual[:1], why="variable", who="Ada")
    marked = opticam.relative_light_curve(out, KEY, 2, "auto")
    assert usual[0] not in marked.attrs["comparisons"]
    assert any(f"source {usual[0]} marked junk by Ada" in line for line in marked.attrs["choice"].splitlines())
    steps = opticam.relative(opticam.light_curves(out, KEY).load(), 2, "auto")
    assert steps.attrs["comparisons"] == marked.attrs["comparisons"]
    # whoever names it gets it, and its own light curve is untouched
    assert opticam.relative_light_curve(out, KEY, 2, usual[:1]).attrs["comparisons"] == usual[:1]
    assert np.isfinite(_curves(out)["flux"]).all()
    others = [number for number in _curves(out)["source_id"].to_numpy().tolist() if number not in (2, *usual)]
    opticam.mark(out, "keep", KEY, sources=others[-1:])
    assert others[-1] in opticam.relative_light_curve(out, KEY, 2, "auto").attrs["comparisons"]


def test_unmark__everything_is_as_before_and_the_mark_is_on_record(out, reduced):
    numbers = opticam.mark(out, "cloud", KEY, frames=_files(out)[:2])
    opticam.unmark(out, numbers, who="Grace")
    assert _curves(out).identical(_curves(reduced))
    assert len(opticam.marks(out)) == 0
    assert opticam.marks(out, undone=True)["undone_by"].tolist() == ["Grace", "Grace"]
    (third,) = opticam.mark(out, "junk", KEY, sources=[1])
    assert third == 3, "numbers are not given twice"


def test_store__is_whole_with_marks_and_another_reduction_keeps_them(out):
    opticam.mark(out, "cloud", KEY, frames=_files(out)[:2])
    assert integrity.find_damage(Store.open(out).path) == []
    assert "marks" in opticam.open_reduction(out).children
    source = Store.open(out).camera(KEY).parts[0].attributes["data_root"]
    reducer = opticam.Reducer(out, source, client="none", figures=False, verbose=False)
    reducer.create_catalogs()
    reducer.photometry([opticam.AperturePhotometer()])
    assert len(opticam.marks(out)) == 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"kind": "bad", "sources": [1]}, "a mark is one of cloud, junk, keep, got 'bad'"),
        ({"kind": "junk"}, "say what is marked"),
        ({"kind": "cloud", "sources": [1]}, "cloud needs frames or times"),
        ({"kind": "junk", "frames": ["nothing.fits"]}, "no frame nothing.fits of 1:g; the first is "),
        ({"kind": "junk", "times": (1.0, 2.0)}, "no frame of 1:g between MJD 1.000000 and 2.000000; there are some"),
        ({"kind": "junk", "sources": [99]}, "no source 99"),
        ({"kind": "junk", "sources": [1], "label": "psf"}, "no photometry 'psf' of 1:g; there is aperture, optimal"),
    ],
)
def test_mark__what_is_not_there_is_refused(reduced, how, words):
    with pytest.raises(ValueError, match=words):
        opticam.mark(reduced, key=KEY, **how)
    assert len(opticam.marks(reduced)) == 0


def test_unmark__unknown_number(reduced):
    with pytest.raises(ValueError, match="no mark 7; there is none"):
        opticam.unmark(reduced, [7])


def test_mark__of_a_user_without_a_name_has_his_number(out, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["a container knows no name"])
    number = opticam.mark(out, "junk", KEY, sources=[1])
    opticam.unmark(out, number)
    assert opticam.marks(out, undone=True)["who"].tolist() == [str(os.getuid())]


def test_mark__is_refused_while_a_run_works(out):
    with ownership.own(out):
        held = dict(ownership._held)
        ownership._held.clear()  # as another process would find it
        with pytest.raises(ownership.OwnedError):
            opticam.mark(out, "junk", KEY, sources=[1])
        ownership._held.update(held)


def test_commands__mark_list_and_unmark(out, capsys):
    file = _files(out)[2]
    assert cli.main(["mark", str(out), "junk", "--key", KEY, "--frames", file, "--why", "trail", "--who", "Ada"]) == 0
    assert "1: junk, 1:g at MJD" in capsys.readouterr().out
    assert cli.main(["marks", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["marks"]
    assert (row["number"], row["why"], row["source_id"]) == (1, "trail", 0)
    assert cli.main(["unmark", str(out), "1", "--who", "Ada"]) == 0
    assert "taken back by Ada" in capsys.readouterr().out
    assert cli.main(["marks", str(out)]) == 0
    assert capsys.readouterr().out == "no marks\n"
    assert cli.main(["lightcurve", str(out), "--target", "2", "--comparisons", "auto", "--without", "1", "3"]) == 0
    assert "left out as asked for" in capsys.readouterr().out
