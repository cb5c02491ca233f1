"""What a model can learn: by name, what makes the task of a config (`Task.of`)."""

from lstm_jax.tasks.adding import AddingTask
from lstm_jax.tasks.continual_reber import ContinualReberTask
from lstm_jax.tasks.copy_memory import CopyMemoryTask
from lstm_jax.tasks.digits import DigitsTask
from lstm_jax.tasks.embedded_reber import EmbeddedReberTask
from lstm_jax.tasks.long_lags import LongLagsTask
from lstm_jax.tasks.multiplication import MultiplicationTask
from lstm_jax.tasks.task import Task
from lstm_jax.tasks.temporal_order import TemporalOrderTask
from lstm_jax.tasks.text import TextTask
from lstm_jax.tasks.two_sequences import TwoSequencesTask
from lstm_jax.tasks.very_long_lags import VeryLongLagsTask

TASKS: dict[str, type[Task]] = {
    "text": TextTask,
    "adding": AddingTask,
    "embedded_reber": EmbeddedReberTask,
    "continual_reber": ContinualReberTask,
    "copy_memory": CopyMemoryTask,
    "digits": DigitsTask,
    "multiplication": MultiplicationTask,
    "temporal_order": TemporalOrderTask,
    "two_sequences": TwoSequencesTask,
    "long_lags": LongLagsTask,
    "very_long_lags": VeryLongLagsTask,
}
