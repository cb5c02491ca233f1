"""The multiplication problem with sequences of 100 to 110 steps, learnt but for its fine tuning.

At the end 7 in 100 held-out sequences are wrong, and the mean squared error is 5e-4. A model that
always says the mean has 0.058.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="multiplication", length=100),
        # Each unit begins with a memory of its own, as in `adding`. With a forget bias of 5 in its
        # place one in four was wrong.
        model=ModelConfig(hidden_size=32, chrono=100),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        train=TrainConfig(steps=4000, batch_size=32, gradient="bptt", validate_every=500),
    )
