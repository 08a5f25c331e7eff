"""Numbers that follow from definitions of units: of time, of magnitudes, of angles."""

import math

#: Seconds of a day.
SECONDS_PER_DAY = 86400.0

#: Hours of a day.
HOURS_PER_DAY = 24.0

#: Days of a Julian year.
DAYS_PER_YEAR = 365.25

#: Julian Date of the zero of Modified Julian Dates.
JD_OF_MJD = 2400000.5

#: Modified Julian Date of J2000.0.
MJD_OF_J2000 = 51544.5

#: Modified Julian Date of 1970-01-01, the zero of NumPy's dates.
MJD_OF_1970 = 40587.0

#: Proleptic Gregorian ordinal (``date.toordinal``) of the zero of Modified Julian Dates, 1858-11-17.
ORDINAL_OF_MJD = 678576

#: Magnitudes of a small relative change of a flux: 2.5 / ln 10.
MAGNITUDES_PER_SHARE = 2.5 / math.log(10.0)

#: Arcseconds of a degree.
ARCSECONDS_PER_DEGREE = 3600.0
