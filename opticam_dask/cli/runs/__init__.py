"""Commands that reduce frames: at once, as they land, or by submitted jobs."""
