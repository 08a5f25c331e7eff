"""Fits of transits, eclipses and sinusoids to differential light curves of one or several cameras."""
