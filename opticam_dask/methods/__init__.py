"""Methods that users may replace: photometers, backgrounds, finders, and the view of a frame that they get."""
