"""Raw frames: FITS files, instruments, tables of frames, and simulated observations."""
