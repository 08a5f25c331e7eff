"""Work of one task of a reduction on one block of frames."""
