"""The continual embedded Reber grammar."""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="continual_reber"),
        model=ModelConfig(hidden_size=32, forget_bias=3.0),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(steps=2000, batch_size=16, sequence_length=50, validate_every=500),
    )
