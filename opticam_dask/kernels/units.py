"""Units of time that everything counts in."""

#: Seconds of a day.
SECONDS_PER_DAY = 86400.0

#: Julian Date of the zero of Modified Julian Dates.
JD_OF_MJD = 2400000.5
