"""What is made of fluxes: light curves to open, differential curves, timing, tables and conversions."""
