"""Copy memory with T = 1000."""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="copy_memory", blanks=1000, held_out=256),
        model=ModelConfig(hidden_size=64, forget_bias=7.0),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        train=TrainConfig(steps=20_000, batch_size=32, validate_every=500),
    )
