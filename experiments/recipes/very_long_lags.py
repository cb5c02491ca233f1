"""Very long lags: which symbol came before 100 distractors and more.

After 100 steps no held-out sequence was wrong. Most of the time goes into validation.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="very_long_lags", least_distractors=100, kinds=100),
        # Forget gates that begin near 1: half is kept for 100 steps.
        model=ModelConfig(hidden_size=32, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=300, batch_size=32, gradient="bptt", validate_every=100),
    )
