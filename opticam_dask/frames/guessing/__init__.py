"""What the headers of an unknown camera mean: a definition proposed from them, and what they do not say."""
