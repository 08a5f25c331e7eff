"""Filters whose names would be one directory are never merged into one light curve."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from astropy.io import fits

from opticam_dask import Instrument, Reducer, simulate_observations
from opticam_dask.pipeline.reduction import ReductionError
from opticam_dask.store import making
from opticam_dask.store.errors import StoreError, require_own_name
from opticam_dask.store.store import Store


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("names")
    simulate_observations(
        directory, n_frames=4, shape=(128, 128), n_sources=8, filters=("g",), flux_range=(1e4, 2e5), seed=1
    )
    one = {"name": "one", "time_keywords": ["UT"], "time_marks": "start", "cameras": {"1": ["H"]}}
    (directory / "one.json").write_text(json.dumps(one | {"default_read_noise": 1.3, "source_pixels": 64}))
    return directory


def name_filters(data, *names):
    files = sorted(data.glob("*.fits*"))
    for index, file in enumerate(files):
        fits.setval(file, "FILTER", value=names[index % len(names)])


def reducer(data, out):
    return Reducer(
        out, data, instrument=Instrument.from_json(data / "one.json"), client="none", figures=False, verbose=False
    )


@pytest.mark.parametrize("names", [("H/a", "H_a"), ("R", "r"), ("a b", "A B"), ("R", "R."), ("a/b", "a\\b")], ids=str)
def test_names__that_are_one_directory_are_refused_before_a_store_is_made(data, tmp_path, names):
    name_filters(data, *names)
    with pytest.raises(ReductionError, match="would be one group"):
        reducer(data, tmp_path / "out").create_catalogs()
    assert not Store.at(tmp_path / "out").exists()


def test_names__of_a_later_night_are_held_against_the_store(data, tmp_path):
    name_filters(data, "H/a")
    reducer(data, tmp_path / "out").create_catalogs()
    name_filters(data, "H_a")
    with pytest.raises(ReductionError, match=r"1:H/a and 1:H_a would be one group 1-H_a"):
        reducer(data, tmp_path / "out").create_catalogs()
    assert Store.open(tmp_path / "out").keys == ["1:H/a"]


def test_labels__that_are_one_directory_where_capital_letters_do_not_count_are_refused():
    part = SimpleNamespace(labels=["aperture", "optimal"])
    with pytest.raises(StoreError, match="Aperture and aperture would be one directory"):
        making.add_photometry(part, "Aperture", [], {})
    require_own_name("aperture", part.labels)  # the same one goes on
