"""Tiny Shakespeare against nanoGPT's quick CPU run, which reaches 1.88 in about three minutes."""

from lstm_jax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        data=DataConfig(corpus="tiny_shakespeare"),
        model=ModelConfig(hidden_size=192),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=50),
        train=TrainConfig(steps=1000, batch_size=32, sequence_length=64, validate_every=250),
        # That run's block length: windows of 64 characters, each from the zero state.
        evaluate=EvaluateConfig(window_length=64),
    )
