"""Displays for people: plots, the report, the browser, the state of a reduction."""
