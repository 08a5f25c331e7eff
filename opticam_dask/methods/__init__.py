"""What users may replace: photometers, backgrounds, finders, and what they are shown of a frame."""
