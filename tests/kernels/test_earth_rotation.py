"""Rotation of the Earth: the table of this package against astropy's own reading of the same files."""

import numpy as np
import pytest
from astropy.utils import iers

from opticam_dask.kernels.series import earth_rotation, timing


@pytest.fixture(scope="module")
def tables():
    return earth_rotation.bundled_table(), iers.IERS_Auto.read()


@pytest.mark.parametrize("name", ["MJD", "PM_x", "PM_y", "UT1_UTC", "dX_2000A", "dY_2000A"])
def test_bundled_table__numbers_are_those_of_astropy(tables, name):
    ours, theirs = tables
    assert ours[name].unit == theirs[name].unit
    np.testing.assert_array_equal(ours[name].value, theirs[name].value)


def test_bundled_table__says_as_astropy_does_what_is_predicted(tables):
    ours, theirs = tables
    for name, value in {"PolPMFlag": "PM_x", "UT1Flag": "UT1_UTC", "NutFlag": "dX_2000A"}.items():
        is_known = np.isfinite(theirs[value].value)
        np.testing.assert_array_equal(ours[name][is_known], theirs[name][is_known])
    assert ours.meta["predictive_mjd"] == theirs.meta["predictive_mjd"]
    assert ours.meta["predictive_index"] == theirs.meta["predictive_index"]


@pytest.mark.parametrize("mjd", [41000.5, 51544.3, 60310.25, 63000.0], ids=["before", "old", "recent", "after"])
def test_barycentric_mjd__is_to_the_bit_what_the_table_of_astropy_gives(tables, mjd):
    where = (np.array([mjd, mjd + 0.01]), 150.0, 20.0, -115.46, 31.04, 2790.0)
    ours = timing.barycentric_mjd(*where)
    with iers.earth_orientation_table.set(tables[1]):
        np.testing.assert_array_equal(timing.barycentric_mjd(*where), ours)


def test_barycentric_mjd__leaves_the_table_of_astropy_as_it_was(tables, monkeypatch):
    monkeypatch.setattr(iers.IERS_Auto, "read", lambda *_, **__: pytest.fail("astropy read its own table"))
    monkeypatch.setattr(iers.IERS_Auto, "iers_table", None)
    timing.barycentric_mjd(np.array([60310.0]), 150.0, 20.0, -115.46, 31.04, 2790.0)
    assert iers.earth_orientation_table._value is None
    assert iers.IERS_Auto.iers_table is None


def test_bundled_table__of_another_format_is_left_to_astropy(monkeypatch, tmp_path, tables):
    monkeypatch.setattr(iers, "IERS_A_FILE", str(tmp_path / "finals"))
    (tmp_path / "finals").write_bytes(188 * b"x" + b"\n")
    monkeypatch.setattr(iers.IERS_Auto, "open", classmethod(lambda cls: tables[1]))
    assert earth_rotation.bundled_table.__wrapped__() is tables[1]


def test_universal_time__is_to_the_bit_that_of_bulletin_b():
    mjd = np.random.default_rng(1).uniform(37000.0, 63000.0, 3000)
    ours, ours_status = earth_rotation.universal_time().ut1_utc(2400000.5, mjd, return_status=True)
    theirs, theirs_status = iers.IERS_B.open().ut1_utc(2400000.5, mjd, return_status=True)
    np.testing.assert_array_equal(ours_status, theirs_status)
    np.testing.assert_array_equal(ours.to_value("s"), theirs.to_value("s"))
