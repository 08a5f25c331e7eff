"""How one frame becomes a sky-subtracted image with a list of sources."""
