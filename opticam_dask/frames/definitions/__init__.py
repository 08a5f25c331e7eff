"""Definitions of cameras: well-known ones, as JSON files beside this module, and users' own."""
