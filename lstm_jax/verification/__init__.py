"""Every gradient from every source, compared."""
