"""A reduction in parts, for the job arrays of a cluster: plan it, work on a range of it, finish it."""
