"""What comparison stars say of a night: trends that they share, how often their errors hold, and its zero point."""
