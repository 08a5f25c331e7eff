"""The driver of a reduction: which parts and blocks of frames are to do, and in what order."""
