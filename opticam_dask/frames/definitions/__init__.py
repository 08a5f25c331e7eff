"""Definitions of well-known cameras, as JSON files beside this module, and those of users."""
