"""The embedded Reber grammar: every string of both sets is correct after 200 steps of 16 strings.

It takes some seconds on two CPU cores.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="embedded_reber"),
        # With a forget bias of 1, the default, the last symbol but one was a guess after 1,000
        # steps: what came second was forgotten on the way.
        model=ModelConfig(hidden_size=32, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=3e-2),
        train=TrainConfig(steps=400, batch_size=16, validate_every=50),
    )
