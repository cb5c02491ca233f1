"""The embedded Reber grammar, experiment 1 of the LSTM's first paper."""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="embedded_reber"),
        model=ModelConfig(hidden_size=16),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(steps=1000, batch_size=8, validate_every=50),
    )
