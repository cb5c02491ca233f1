"""Handwritten digits, one pixel at a step."""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="digits"),
        model=ModelConfig(hidden_size=128, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500),
        train=TrainConfig(steps=17_000, batch_size=128, validate_every=500),
    )
