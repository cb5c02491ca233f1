"""The cells: each owns its parameters, its state and its step."""
