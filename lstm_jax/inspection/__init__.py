"""A window into the cells: what each unit does while a model reads a text."""
