"""The form of stars: how their light falls off, measured in rings, fitted, and held against their pixels."""
