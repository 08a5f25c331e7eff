"""The stages of a reduction, one a module: calibration frames, alignment, stacks, catalogues, profiles, photometry."""
