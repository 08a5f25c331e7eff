"""Marks of observers on measurements, beside the flags of the store, and the choice of comparisons."""
