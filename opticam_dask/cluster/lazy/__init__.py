"""Graphs of what tasks make once for all frames."""
