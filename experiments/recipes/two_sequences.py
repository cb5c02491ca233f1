"""The two-sequence problem with sequences of 100 to 110 steps, of which three tell the class.

After 100 steps no held-out sequence was wrong: some seconds on one CPU core.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="two_sequences", length=100, informative=3),
        # Forget gates that begin near 1: half is kept for 100 steps.
        model=ModelConfig(hidden_size=32, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=500, batch_size=32, gradient="bptt", validate_every=100),
    )
