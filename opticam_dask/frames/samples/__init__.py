"""Frames to try the package on: fetched from where they are published, or simulated where there is no network."""
