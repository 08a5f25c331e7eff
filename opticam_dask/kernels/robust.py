"""Robust statistics: scatter from the median absolute deviation."""

#: Standard deviation of normally distributed values in units of their median absolute deviation, 1 / 0.6745.
MAD_TO_SIGMA = 1.4826
