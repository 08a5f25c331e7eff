"""Steps of one frame, a module each: read, calibrate, background, detect, align, stack, measure."""
