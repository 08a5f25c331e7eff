"""The Zarr store of a reduction: its layout, its chunks, whether it is whole, and who may write to it."""
