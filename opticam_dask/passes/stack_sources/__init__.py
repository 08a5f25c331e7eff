"""Sources of a stack: found, told from patches of the sky, and from companions that they hide."""
