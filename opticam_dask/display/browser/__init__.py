"""An interactive browser of frames, apertures and light curves: the only package that knows Bokeh."""

from importlib.util import find_spec

if find_spec("bokeh") is None:
    raise ImportError("the browser needs Bokeh, which is not installed: pip install 'opticam-dask[explore]'")
