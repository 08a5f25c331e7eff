"""What the frames and the other stars of a field say of a light curve: conditions, comparisons, magnitudes."""
