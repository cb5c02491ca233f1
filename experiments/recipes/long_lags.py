"""Long lags: 100 symbols, of which the last is the first. It is not solved.

All is predicted but that last symbol, after 5,000 steps of 4 sequences; so it was with forget gates
nearer to 1, with wider batches, and with a lag of 20. What was learnt first, to predict from one
symbol the next, needs no memory.

With `data.middle=random` neither x nor y was expected at the end, which only counting can tell.
"""

from lstm_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(task="long_lags", lag=100, held_out=64),
        # Forget gates that begin near 1: half is kept for 100 steps.
        model=ModelConfig(hidden_size=32, forget_bias=5.0),
        optimizer=OptimizerConfig(learning_rate=2e-2),
        train=TrainConfig(steps=5000, batch_size=4, gradient="bptt", validate_every=500),
    )
