"""What one task of a reduction does with one block of frames."""
