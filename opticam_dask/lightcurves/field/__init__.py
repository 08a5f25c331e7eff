"""Context of a light curve from its frames and field: conditions, comparison stars, magnitudes."""
