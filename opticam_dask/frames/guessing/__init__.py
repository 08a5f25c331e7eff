"""Definition of an unknown camera, proposed from its headers, with a list of what they leave open."""
