"""Where a frame lies: lists of sources matched with each other or with the stars of the sky, and the transforms."""
