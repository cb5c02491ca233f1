"""lstm_jax: a JAX functional research codebase for LSTM sequence models."""
