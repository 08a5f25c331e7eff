"""Models of transits, eclipses and sinusoids, and their fit to light curves with a linear baseline."""
