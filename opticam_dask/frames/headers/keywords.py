"""What header keywords mean: for each quantity the keywords that hold it, their unit, and who writes them.

The one place to add what another writer does. A definition of an instrument that names a keyword of its own goes before
these lists; what they say about the unit of a keyword holds for it all the same.

Sources: the FITS standard 4.0 (sections 4.4.2, 8 and 9) [F]; MaxIm DL and ACP, "Standard FITS header keywords" and
SBFITSEXT 1.0 [M]; N.I.N.A., "FITS keywords" [N]; SharpCap, user manual, "FITS header" [S]; INDI/KStars, "FITS
viewer and capture" [I]; ASICap and FireCapture, their manuals [A]; IRAF, ccdproc and setinstrument [R]; LCO,
"BANZAI data products" [L]; ESO, "Data interface control document" (DICB) [E]; AstroImageJ, coordinate converter [J];
HST and JWST data handbooks [H]; POCS of PANOPTES [P].
"""

from __future__ import annotations

import re

# ---------------------------------------------------------------- exposure

#: Exposure time [F, M, N, S, I, L, E]; XPOSURE is the effective one [F]; ASICap writes a whole number of units [A].
EXPOSURE = ("EXPTIME", "EXPOSURE", "XPOSURE", "EXP_TIME", "EXPOINMS", "EXPOINUS")
#: Seconds in one unit of keywords that are not in seconds.
SECONDS = {"EXPOINMS": 1e-3, "EXPOINUS": 1e-6, "EXPTIMEMS": 1e-3, "EXPOSUREMS": 1e-3}
#: Words of comments that give the unit of an exposure time, and the seconds in it.
SECONDS_IN_COMMENT = (
    (
        re.compile(r"[\[(]\s*(ms|msec|milli-?sec\w*)\s*[\])]|\bmilli-?seconds?\b|\bin m(illi)?s(ec)?\b", re.IGNORECASE),
        1e-3,
    ),
    (re.compile(r"[\[(]\s*(us|usec|\xb5s|micro-?sec\w*)\s*[\])]|\bmicro-?seconds?\b|\bin us\b", re.IGNORECASE), 1e-6),
    (re.compile(r"^(?!.*\bs(ec\w*)?\b).*([\[(]\s*min(ute)?s?\s*[\])]|\bminutes\b|\bin min\b)", re.IGNORECASE), 60.0),
)

# ---------------------------------------------------------------- gain

#: Electrons per ADU without doubt: EGAIN [M, N, S], CONAD [E] (its neighbour GAIN is ADU per electron),
#: CVF (PRISM), CCDGAIN [H].
ELECTRONS_PER_ADU = (
    "EGAIN",
    "E-GAIN",
    "EPERADU",
    "GAINADU",
    "CVF",
    "CCDGAIN",
    "ESO DET OUT1 CONAD",
    "ESO DET CHIP1 CONAD",
)
#: GAIN is electrons per ADU [R, L, OPTICAM] or the setting of a camera [N, S, I, A].
GAIN = (*ELECTRONS_PER_ADU, "GAIN")
#: ADU per electron [E].
ADU_PER_ELECTRON = ("ESO DET OUT1 GAIN", "ESO DET CHIP1 GAIN")
#: Gains that are looked at only to be held against the one that is used: of two amplifiers, of the read-out, HST.
OTHER_GAINS = ("RO_GAIN", "ROGAIN", "DETGAIN", "ATODGAIN", "CCDEGAIN", "GAIN1")
#: By how much a detector multiplies electrons before they are read [Andor, SAAO, HiPERCAM].
MULTIPLICATIONS = ("EMGAIN", "EM_GAIN", "EM-GAIN", "EMREALGN", "GAINEM", "REALEMGN")
#: Comments of a gain that is ADU per electron.
ADU_PER_ELECTRON_COMMENT = re.compile(
    r"\b(ADU|DN|counts?)s?\s*(/|\bper\b)\s*(photo-?)?e(lectrons?|-)?(?!\w)", re.IGNORECASE
)
#: Comments of a level that is in electrons.
ELECTRONS_COMMENT = re.compile(
    r"[\[(]\s*(photo-?)?e(lectrons?|-)?\s*[\])]|^\s*(photo-?)?electrons\b|\bin (photo-?)?electrons\b", re.IGNORECASE
)
#: Comments of a read noise that is in ADU.
ADU_COMMENT = re.compile(r"[\[(]\s*(ADU|DN|counts?)\s*[\])]|\bin (ADU|DN|counts)\b", re.IGNORECASE)
#: Comments of a setting: "Sensor gain" [N], "[0.1 dB]", "mdB", "camera gain setting".
SETTING_COMMENT = re.compile(r"sensor gain|\bm?dB\b|setting|\bgain (value|index|level)\b", re.IGNORECASE)
#: Keywords that name the software, and software whose GAIN is a setting [N, S, I, A].
WRITER = ("SWCREATE", "CREATOR", "SOFTWARE", "PROGRAM", "SWMODIFY")
WRITERS_OF_SETTINGS = re.compile(
    r"n\.?i\.?n\.?a|sharpcap|asi ?cap|asi ?studio|firecapture|astro photography tool|\bAPT\b|kstars|ekos|indi\b|"
    r"astap|asiair|zwo|toupsky|phd2?\b|voyager|sequence generator|ccdciel|siril|astrodmx|oacapture|stellarmate",
    re.IGNORECASE,
)
#: What INDI writes beside a GAIN, which is the setting of its driver [I].
INDI_FRAME = re.compile(r"^(light|bias|dark|flat)$", re.IGNORECASE)

#: How many exposures a frame is made of: by the camera (COADDS, NDIT [E]) or by a program (NCOMBINE [R], SNAPSHOT [M]).
N_EXPOSURES = ("COADDS", "NCOADDS", "NCOMBINE", "STACKCNT", "SNAPSHOT", "ESO DET NDIT")

# ---------------------------------------------------------------- binning and filter

#: Of the first axis, or of both in one text; CCDSUM is '2 2' [R, L], CCDXBIN the OPTICAM way.
BINNING = ("BINNING", "CCDSUM", "XBINNING", "CCDXBIN", "XBIN", "BINX", "CCDBIN1", "ESO DET WIN1 BINX")
#: Keyword of the second axis beside that of the first [M, N, S, I, E].
SECOND_AXIS = {
    "XBINNING": "YBINNING",
    "CCDXBIN": "CCDYBIN",
    "XBIN": "YBIN",
    "BINX": "BINY",
    "CCDBIN1": "CCDBIN2",
    "ESO DET WIN1 BINX": "ESO DET WIN1 BINY",
}
#: Binnings that are looked at only to be held against the one that is used: Andor Solis, cameras of HST and of others.
OTHER_BINNINGS = (
    "HBIN",
    "VBIN",
    "CCDBINX",
    "CCDBINY",
    "BINAXIS1",
    "NBIN1",
    "BINFACTX",
    "X_BIN",
    "HORBIN",
    "BIN",
    "CCDBIN",
    "CAM-BINX",
)
#: Filter [M, N, S, I, L, R]; ESO names the wheel [E].
FILTER = ("FILTER", "FILTNAME", "FILTERID", "FILTERS", "ESO INS FILT1 NAME")
#: Filters of further wheels or of other spellings, which only a definition can make one filter of.
OTHER_FILTERS = ("FILTER1", "FILTER2", "FILTER3", "FILTNAM", "FILTERNAM", "FILTNAM1", "FILTNAM2", "FILT", "FLTNAME")
#: Read noise [R, L, E] and others that a frame can do without.
READ_NOISE = ("RDNOISE", "READNOIS", "RON", "ESO DET OUT1 RON", "ESO DET CHIP1 RON")
SATURATION = ("SATLEVEL", "SATURATE")
DARK_CURRENT = ("DARKCURR",)
AIRMASS = ("AIRMASS", "SECZ", "ESO TEL AIRM START")

# ---------------------------------------------------------------- what kind of frame it is

#: Kind of a frame: IMAGETYP [M, N, S, R], IMGTYPE (OPTICAM), OBSTYPE [L], FRAME [I], DPR TYPE [E].
IMAGE_TYPE = ("IMAGETYP", "IMGTYPE", "OBSTYPE", "EXPTYPE", "ESO DPR TYPE", "FRAME")
#: Further spellings, which go behind those of a definition.
OTHER_IMAGE_TYPES = ("FRAMETYP", "IMG_TYPE", "IMTYPE", "FRMTYPE", "OBS_TYPE", "EXP_TYPE", "DATA-TYP", "OBSMODE")
#: Objects that are the name of a kind of calibration frame and nothing else.
CALIBRATION_OBJECT = re.compile(
    r"\s*((master|super|sky|dome|twilight|evening|morning|dark|flat)\W*)*(bias|dark|flat|zero)(es|s)?"
    r"(\W*(field|frame|wizard))?s?\W*\d*\s*",
    re.IGNORECASE,
)
#: Kinds by their words, the first that fits; a "flat dark" is a dark, a "sky flat" is a flat. Other words are lights.
KINDS = (
    ("bias", re.compile(r"bias|\bzero\b|\boffset\b", re.IGNORECASE)),
    ("dark", re.compile(r"dark", re.IGNORECASE)),
    ("fringe", re.compile(r"fringe", re.IGNORECASE)),
    ("flat", re.compile(r"flat|\bdome\b|twilight", re.IGNORECASE)),
    ("focus", re.compile(r"focus", re.IGNORECASE)),
    ("acquisition", re.compile(r"acqui|^guid(e|er|ing)\b", re.IGNORECASE)),
    ("lamp", re.compile(r"^(comp|comparison|arc|lamp|wave|wavecal|calib)\b|\blamp\b", re.IGNORECASE)),
    ("spectrum", re.compile(r"spectrum|spectra\b|spectroscop", re.IGNORECASE)),
)
LIGHT = re.compile(
    r"light|object|science|expos|target|standard|^sci$|^obj$|tricolor|snapshot|autosave|imag(e|ing)|photometry|normal|"
    r"\bstars?\b|^on$|^open$|^camera$|^none$|^unknown$",
    re.IGNORECASE,
)

# ---------------------------------------------------------------- position

#: Right ascension and declination, pair by pair: RA is degrees for a number, hours for 12:34:56 [F, N, S, I, L, E];
#: OBJCTRA is text in hours [M, N, S, I]; RA_OBS and RA-MNT are degrees [P, SAAO]; CRVAL that of a celestial WCS [F].
RA = ("RA", "OBJCTRA", "RA_OBS", "RA_DEG", "RADEG", "RA-MNT", "TELRA", "CAT-RA", "CRVAL1")
DEC = ("DEC", "OBJCTDEC", "DEC_OBS", "DEC_DEG", "DECDEG", "DEC-MNT", "TELDEC", "CAT-DEC", "CRVAL2")
#: Right ascensions whose numbers are degrees by definition.
IN_DEGREES = frozenset({"RA_OBS", "RA_DEG", "RADEG", "RA-MNT", "CRVAL1"})
#: Positions that show in which unit RA is, and that it is right.
WITNESSES = (("OBJCTRA", "OBJCTDEC"), ("CRVAL1", "CRVAL2"), ("RA_OBS", "DEC_OBS"), ("RA_DEG", "DEC_DEG"))
DEGREES_COMMENT = re.compile(r"\bdeg(ree)?s?\b", re.IGNORECASE)
HOURS_COMMENT = re.compile(r"\bhours?\b|\bhrs?\b|hourangle|[\[(]h[\])]", re.IGNORECASE)

# ---------------------------------------------------------------- site

#: Latitude, longitude and height together: SITELAT [M, N, S, I], OBSLAT and LAT-OBS [J, P], LATITUDE [L], GEOLAT [E],
#: OBSGEO-B, -L, -H [F]. ALTITUDE is left out: it is that of the telescope's axis as often as that of the site.
SITES = (
    ("OBSGEO-B", "OBSGEO-L", ("OBSGEO-H",)),
    ("SITELAT", "SITELONG", ("SITEELEV", "SITEALT")),
    ("LAT-OBS", "LONG-OBS", ("ALT-OBS", "ELEV-OBS")),
    ("OBSLAT", "OBSLONG", ("OBSALT", "OBSELEV")),
    ("LATITUDE", "LONGITUD", ("HEIGHT",)),
    ("ESO TEL GEOLAT", "ESO TEL GEOLON", ("ESO TEL GEOELEV",)),
    ("GEOLAT", "GEOLON", ("GEOELEV",)),
    ("SITELAT", "SITELON", ("SITEELEV", "SITEALT")),
)
#: The same in metres from the centre of the Earth [F].
GEOCENTRIC = ("OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z")
WEST_COMMENT = re.compile(r"west(\s+is)?\s*(positive|\+)|(positive|\+)\s*(to the\s+)?w(est)?\b", re.IGNORECASE)
DEGREES_WEST_COMMENT = re.compile(r"deg\w*[\])]?\s*w(est)?\b", re.IGNORECASE)

# ---------------------------------------------------------------- time

#: What keywords mark by the FITS standard or by their name; others mark what the definition says.
MARKS = {
    "DATE-BEG": "start", "MJD-BEG": "start", "EXPSTART": "start", "UTSTART": "start", "TIME-BEG": "start",
    "DATE-AVG": "middle", "MJD-AVG": "middle", "DATE-MID": "middle", "MJD-MID": "middle", "UTMIDDLE": "middle",
    "UT-MID": "middle", "JD-MID": "middle", "EXPMID": "middle",
    "DATE-END": "end", "MJD-END": "end", "EXPEND": "end", "UTSTOP": "end", "UTEND": "end", "UT-END": "end",
    "TIME-END": "end",
}  # fmt: skip
#: The same by the words of comments.
MARKS_IN_COMMENT = (
    ("start", re.compile(r"\b(start|begin|beginning|began|opened|open)\b", re.IGNORECASE)),
    ("middle", re.compile(r"\b(mid|middle|centre|center|mid-?point|mid-?exposure|avg|average)\b", re.IGNORECASE)),
    ("end", re.compile(r"\b(end|stop|closed|close|received|arrival)\b", re.IGNORECASE)),  # "Frame Received" [S]
)
#: Comments of times that are local ones,
LOCAL_COMMENT = re.compile(r"\blocal\b|\bLT\b", re.IGNORECASE)
#: and of times on another scale than UTC.
SCALE_IN_COMMENT = re.compile(r"\b(TDB|TAI|TT|GPS time)\b")
#: Keywords of a zone that the times of a header are in.
ZONES = ("TM_ZONE", "TIMEZONE", "TIME-ZON", "TZ")
#: Comments of times that are UTC.
UTC_COMMENT = re.compile(r"\bUTC?\b|\bGMT\b|universal", re.IGNORECASE)
#: Times of day beside a date that stands alone [R, L, E, H, SAAO].
TIMES_OF_DAY = ("UTC-OBS", "UT-OBS", "UT", "UTSTART", "TIME-OBS", "UTC", "UT-START", "TIME-BEG", "TIME", "EXPSTART")
#: Columns of a table, or beginnings of numbered keywords, that hold the time of each plane of a cube.
PLANE_TIMES = (
    *("DATE-BEG", "DATE-OBS", "MJD-BEG", "MJD-OBS", "MJD-UTC", "MJDUTC", "MJD", "JD-UTC", "JD", "DATE", "TIMESTAMP"),
    *("TIMSTAMP", "GPSTIME", "UTC", "UT", "DATE-AVG", "MJD-AVG", "MJD-MID", "DATE-END", "MJD-END", "TIME", "ELAPSED"),
)
#: Seconds from the beginning of one plane of a cube to that of the next: kinetic cycle of Andor cameras, and others.
PLANE_STEP = ("KCT", "KINCYCLE", "CYCLETIM", "TIMEDEL", "TSTEP", "TIMESTEP", "FRAMESTEP", "CADENCE")
#: Those of them that no exposure is longer than.
CYCLES = ("KCT", "KINCYCLE", "CYCLETIM")
#: Times at the Sun or at the barycentre: no time of an observatory [M: JD-HELIO].
HELIOCENTRIC = re.compile(r"^(B|H)M?JD|HELIO|BARY|^BJD|^HJD", re.IGNORECASE)
#: Words of names, and of TREFPOS, that say which of the two.
FAR_NAMES = (
    (re.compile(r"^BM?JD|BARYCENT|\bBARY", re.IGNORECASE), "barycentre"),
    (re.compile(r"^HM?JD|HELIO|\bSUN\b", re.IGNORECASE), "heliocentre"),
)
#: Local times, which mean nothing without their zone [M, N].
LOCAL = frozenset({"LOCALTIM", "DATE-LOC", "TIME-LOC", "LT", "LOCTIME", "DATE-LT", "UTLOCAL"})
#: Scale that a keyword names itself.
SCALE_IN_NAME = re.compile(r"(?:^|[-_]|JD|MJD)(UTC|UT|TDB|TT|TAI|GPS)(?:$|[-_])", re.IGNORECASE)
#: Values of TIMESYS [F, table 30], as scales of this program. ET and TDT are older names of TDB and TT.
TIMESYS = {
    "UTC": "utc", "UT": "utc", "GMT": "utc", "UT1": "ut1", "TAI": "tai", "IAT": "tai", "GPS": "gps", "TT": "tt",
    "TDT": "tt", "ET": "tdb", "TDB": "tdb", "TCG": "tcg", "TCB": "tcb",
}  # fmt: skip
#: Where the times of TREFPOS are not those of the observatory [F, 9.2.3].
FAR_REFERENCE = re.compile(r"BARYCENT|HELIOCEN|EMBARYC|JUPITER|SUN", re.IGNORECASE)
#: Further times of one exposure, and what they mark ("any": start or middle, as writers please) [F, M, L].
OTHER_TIMES = (
    ("DATE-BEG", "start"), ("DATE-AVG", "middle"), ("DATE-END", "end"), ("MJD-BEG", "start"), ("MJD-AVG", "middle"),
    ("MJD-END", "end"), ("DATE-MID", "middle"), ("MJD-MID", "middle"), ("DATE-OBS", "any"),
    ("MJD-OBS", "any"), ("JD", "any"), ("JD_UTC", "any"),
)  # fmt: skip
#: Times of day that are of the exposure too, whatever the date beside them [R, L, M].
OTHER_TIMES_OF_DAY = ("UTC-OBS", "UT-OBS", "UT", "TIME-OBS", "UTC")
