"""From a text to batches: where it is from, what it is read in, its splits and streams."""
