"""Handwritten digits, one pixel at a step: 40 rounds through the training images.

It was not trained to its end yet.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="digits"),
        # A cell that writes nothing keeps half of what it holds for 100 steps, which is 4 rows.
        model=ModelConfig(hidden_size=128, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500),
        train=TrainConfig(steps=34_000, batch_size=64, validate_every=850),
    )
