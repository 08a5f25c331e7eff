"""Pure NumPy kernels: one frame, or one array over frames, in and out."""
