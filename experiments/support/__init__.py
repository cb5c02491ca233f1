"""What recipes and studies stand on."""
