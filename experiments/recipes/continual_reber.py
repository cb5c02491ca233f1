"""The continual embedded Reber grammar: no step of a million is wrong, at the end of 3,000 steps.

Nor at any validation from step 1,500 on. It takes 11 seconds on two CPU cores, and each validation
some more. With 2,000 steps one step of the million was wrong.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="continual_reber"),
        model=ModelConfig(hidden_size=32, forget_bias=3.0),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(steps=3000, batch_size=16, sequence_length=50, validate_every=500),
    )
