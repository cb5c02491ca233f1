"""What is trained: a config each."""
