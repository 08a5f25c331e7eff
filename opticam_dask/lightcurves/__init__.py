"""Products of the measured fluxes: light curves, differential curves, timing, tables and conversions."""
