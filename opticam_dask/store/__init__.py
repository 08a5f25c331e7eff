"""The Zarr store of a reduction: its layout, its chunks, its integrity, and its owner."""
