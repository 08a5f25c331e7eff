"""Driver of a reduction: which parts and blocks of frames are not done, and in which order they are worked on."""
