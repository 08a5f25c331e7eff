"""The sky background of one frame: measured in boxes, smoothed, and subtracted."""
