"""The steps of a reduction on datasets: frames in, light curves out, lazily on Dask arrays and at once on NumPy.

Each step takes a dataset and gives one with what it found added (``merge=False`` gives that alone). The numbers are
those of the durable reduction bit for bit; a step is one task a chunk, and nothing is computed while the graph is
built. A lazy catalogue has slots for its sources: how many there are is known from the stack only. What a step does
with one frame is in the module of the same name in ``opticam_dask.steps``, which the durable passes call as well. The
functions on datasets stand here, above the other rooms: the pipeline chooses the reference frame, a pass makes the
catalogue, and light curves are divided in a room of their own.
"""
