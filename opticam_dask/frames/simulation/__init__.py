"""Simulated frames: star fields with known fluxes, and the frames of the tutorial."""
