"""What the headers of FITS files say: keywords, values, times, places on the sky, gains, and where they disagree."""
