"""What one frame goes through, a module a step: read, calibrate, background, detect, align, stack, measure."""
