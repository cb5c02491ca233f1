"""The main job: 38 plays, learnt in three minutes on two CPU cores."""

from lstm_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(hidden_size=256),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=50),
        train=TrainConfig(steps=1000, batch_size=64, sequence_length=64, validate_every=250),
    )
