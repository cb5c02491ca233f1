"""How a trained model is scored."""
