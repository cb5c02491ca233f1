"""What is measured: a module with a `main` each."""
