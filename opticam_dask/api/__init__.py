"""The notebook face: reductions, differential light curves, timing, live nights, repair and job arrays."""
