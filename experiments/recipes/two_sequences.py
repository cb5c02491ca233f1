"""The two-sequence problem with sequences of 100 to 110 steps."""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="two_sequences", length=100, informative=3),
        # Forget gates near 1, as in `adding`.
        model=ModelConfig(hidden_size=32, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=2000, batch_size=32, gradient="bptt", validate_every=250),
    )
