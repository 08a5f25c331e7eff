"""The server of the browser: on the loopback interface, at an address that nobody can guess.

A page asks nothing of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import secrets
import socket
import threading
from pathlib import Path

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop

from opticam_dask.display.browser.camera_view import Views
from opticam_dask.display.browser.page import Page
from opticam_dask.locations import location
from opticam_dask.parameters import held_to
from opticam_dask.result_parameters import SHOWING
from opticam_dask.text import printable

# a page that is closed while it is sent something is nothing to warn of
logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)

HOST = "127.0.0.1"


def _bound_socket(port: int) -> socket.socket:
    """Socket that listens on the loopback interface; 0 takes a free port."""
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        bound.listen(128)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


class _Pages(BokehTornado):
    """Pages without the parts of Bokeh that are not used, which take longer to load than all the others."""

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        """Files that a page loads, all from this server."""
        return super().resources(absolute_url).clone(components=["bokeh", "bokeh-widgets"])


async def _wind_up(http_server: HTTPServer) -> None:
    """Let what is under way end, close the connections, and cancel what waits."""
    await asyncio.sleep(0.05)
    await http_server.close_all_connections()
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


class Browser:
    """A browser of a reduction, served on the loopback interface for as long as it is open.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key, label : str, optional
        Camera and photometry that are shown first.
    port : int
        0 takes a free one.

    Raises
    ------
    store.StoreError
        When there is no store.
    ValueError
        When there is no such camera or label, or nothing to show.
    OSError
        When the port is taken.
    """

    def __init__(
        self, out_directory: str | Path, key: str | None = None, label: str | None = None, *, port: int = 0
    ) -> None:
        self.out_directory = location(out_directory)
        # what is imported for it need not be waited for
        first = Page(Views(self.out_directory), key, label).view
        self._key, self._label = first.key, first.label
        self._started, self._error = threading.Event(), list[BaseException]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port, self._prefix = port, secrets.token_urlsafe(12)
        self._thread = threading.Thread(target=self._serve, name="opticam_dask browser", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error:
            error = self._error[0]
            if isinstance(error, OSError):
                raise OSError(error.errno, f"port {port} cannot be used ({error.strerror}): choose another") from error
            raise error

    def _serve(self) -> None:
        """Run the server in a loop of its own, which the notebook's loop knows nothing of."""
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        try:
            bound = _bound_socket(self._port)
            self._port = int(bound.getsockname()[1])
            origins = {f"{name}:{self._port}" for name in (HOST, "localhost")}
            application = Application(FunctionHandler(self._add_page))
            pages = _Pages({"/": application}, prefix=self._prefix, extra_websocket_origins=origins)
            http_server = HTTPServer(pages)
            http_server.add_sockets([bound])
            server = BaseServer(IOLoop.current(), pages, http_server)
        except BaseException as error:  # noqa: BLE001 - it is raised where the browser was asked for
            self._error.append(error)
            self._loop.close()
            self._started.set()
            return
        server.start()
        self._loop.call_soon(self._started.set)
        try:
            self._loop.run_forever()
        finally:
            server.stop(wait=False)
            self._loop.run_until_complete(_wind_up(http_server))
            self._loop.close()

    def _add_page(self, document: Document) -> None:
        # views of its own: another page may show another radius, and read another source
        Page(Views(self.out_directory), self._key, self._label).add_to(document)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._port}/{self._prefix}/"

    def wait(self) -> None:
        """Go on until the browser is closed from elsewhere, or the process is interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """End the server."""
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ends by itself
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Browser of {self.out_directory} at {self.url}>"

    def _repr_html_(self) -> str:
        url = html.escape(self.url, quote=True)
        return (
            f"<p>Browser of {html.escape(printable(str(self.out_directory)))}: "
            f'<a href="{url}" target="_blank">{url}</a></p>'
            f'<iframe src="{url}" style="width:100%;height:1080px;border:0"></iframe>'
        )


@held_to(SHOWING)
def browse(out_directory: str | Path, key: str | None = None, label: str | None = None, *, port: int = 0) -> Browser:
    """Browse frames, apertures and light curves of a reduction, in a notebook or on a page of its own.

    Parameters are those of :class:`Browser`, which is returned; as the last value of a notebook cell it shows itself.
    """
    return Browser(out_directory, key, label, port=port)
