"""Bytes of FITS files: headers, images, and which frames a file holds."""
