"""What observers say about measurements: marks beside the flags of the store."""
