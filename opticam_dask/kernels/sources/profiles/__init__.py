"""Star profiles: measured in rings, fitted, and compared with the pixels of each star."""
