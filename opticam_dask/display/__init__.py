"""What people look at: plots, the report, the browser, the state of a reduction."""
