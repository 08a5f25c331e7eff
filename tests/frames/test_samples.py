"""Sample frames come from where they are published, once, and are what was published; simulated without a network."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from opticam_dask import cli, fetch_sample
from opticam_dask.frames.samples import fetching
from opticam_dask.frames.simulation import synthetic

CONTENT = {"a.fits": b"SIMPLE" * 700, "b.fits": b"XTENSION" * 900}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of this machine with two files, which are the sample."""
    place = tmp_path / "published"
    place.mkdir()
    for name, content in CONTENT.items():
        (place / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(fetching, "_wanted", lambda name: digests)
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / "cache"))
    with http.server.HTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(place))) as found:
        found.asked, found.place = [], place
        found.url = f"http://127.0.0.1:{found.server_port}"
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def simulations(monkeypatch):
    made = []
    monkeypatch.setattr(synthetic, "generate_observations", lambda place, **options: made.append(place))
    return made


def test_fetch__once__into_the_cache(server, tmp_path):
    told = []
    place = fetch_sample(url=server.url, tell=told.append)
    assert place == tmp_path / "cache" / "hat-p-32"
    assert {file.name: file.read_bytes() for file in place.iterdir()} == CONTENT
    assert len(told) == 1
    assert len(server.asked) == 2
    assert fetch_sample(url=server.url, tell=told.append) == place
    assert (len(server.asked), len(told)) == (2, 1)


def test_fetch__what_was_cut_short_or_spoilt__comes_again_and_nothing_else(server):
    place = fetch_sample(url=server.url, tell=str)
    (place / "b.fits").write_bytes(CONTENT["b.fits"][:-1])
    fetch_sample(url=server.url, tell=str)
    assert server.asked == ["/a.fits", "/b.fits", "/b.fits"]
    assert (place / "b.fits").read_bytes() == CONTENT["b.fits"]


def test_fetch__another_file_under_the_name__is_refused_and_not_kept(server, simulations):
    (server.place / "b.fits").write_bytes(b"another")
    with pytest.raises(fetching.SampleError, match=r"b\.fits is not the file that was published"):
        fetch_sample(url=server.url, tell=str)
    assert not simulations
    assert [file.name for file in (server.place.parent / "cache/hat-p-32").iterdir()] == ["a.fits"]


def test_fetch__a_file_that_is_not_there__is_simulated_and_told(server, simulations, tmp_path):
    (server.place / "b.fits").unlink()
    told = []
    assert fetch_sample(url=server.url, tell=told.append) == tmp_path / "cache" / "simulated"
    assert len(simulations) == 1
    assert "cannot be fetched" in told[-1]
    assert "simulated frames take their place" in told[-1]
    with pytest.raises(fetching.SampleError, match="the same call goes on"):
        fetch_sample(url=server.url, simulate=False, tell=str)


def test_fetch__no_network__is_simulated(server, simulations, tmp_path):
    assert fetch_sample(url="http://127.0.0.1:9", directory=tmp_path / "here", tell=str) == tmp_path / "here/simulated"
    assert len(simulations) == 1


def test_fetch__a_connection_that_ends_too_early__is_not_taken_for_another_file(server, simulations, monkeypatch):
    def promise_more(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(2 * len(CONTENT["a.fits"])))
        handler.end_headers()
        handler.wfile.write(CONTENT["a.fits"])

    monkeypatch.setattr(_Handler, "do_GET", promise_more)
    with pytest.raises(fetching.SampleError, match=r"hat-p-32 cannot be fetched.*the same call goes on"):
        fetch_sample(url=server.url, simulate=False, tell=str)
    told = []
    assert fetch_sample(url=server.url, tell=told.append).name == "simulated"
    assert "cannot be fetched" in told[-1]
    assert not list((server.place.parent / "cache/hat-p-32").iterdir())


def test_simulated__interrupted__is_made_again(tmp_path, monkeypatch):
    def write(place, n_images):
        for number in range(3 * n_images):
            if number == stop_at:
                raise KeyboardInterrupt
            (Path(place) / f"{number}.fits").write_text("frame")

    monkeypatch.setattr(synthetic, "generate_observations", write)
    stop_at = 59
    with pytest.raises(KeyboardInterrupt):
        fetch_sample("simulated", tmp_path)
    assert not list(tmp_path.iterdir())
    stop_at = None
    assert len(list(fetch_sample("simulated", tmp_path).iterdir())) == 60
    assert [file.name for file in tmp_path.iterdir()] == ["simulated"]


def test_fetch__other_names__are_refused():
    with pytest.raises(ValueError, match="expected one of hat-p-32, simulated"):
        fetch_sample("m31")


def test_command__simulated__says_how_to_go_on(simulations, tmp_path, capsys):
    assert cli.main(["sample", "simulated", "--directory", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"opticam-dask reduce {tmp_path / 'simulated'} --out OUT" in told


def test_command__can_be_copied__and_fails_with_no_simulate(server, simulations, tmp_path, capsys, monkeypatch):
    assert cli.main(["sample", "simulated", "--directory", str(tmp_path / "my frames")]) == 0
    assert f"opticam-dask reduce '{tmp_path / 'my frames' / 'simulated'}' --out OUT" in capsys.readouterr().out
    monkeypatch.setitem(fetching.SAMPLES, "hat-p-32", fetching.SAMPLES["hat-p-32"]._replace(url="http://127.0.0.1:9"))
    assert cli.main(["sample", "--no-simulate"]) == 1
    assert "cannot be fetched" in capsys.readouterr().err
    assert len(simulations) == 1


def test_shipped_digests__are_of_all_frames():
    wanted = fetching._wanted("hat-p-32")
    assert len(wanted) == 142
    assert all(len(digest) == 64 and name.endswith(".FITS") for name, digest in wanted.items())
