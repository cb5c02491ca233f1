"""What a model can learn: by name, what makes the task of a config (`Task.of`)."""

from lstm_jax.tasks.adding import AddingTask
from lstm_jax.tasks.continual_reber import ContinualReberTask
from lstm_jax.tasks.copy_memory import CopyMemoryTask
from lstm_jax.tasks.digits import DigitsTask
from lstm_jax.tasks.embedded_reber import EmbeddedReberTask
from lstm_jax.tasks.task import Task
from lstm_jax.tasks.text import TextTask

TASKS: dict[str, type[Task]] = {
    "text": TextTask,
    "adding": AddingTask,
    "embedded_reber": EmbeddedReberTask,
    "continual_reber": ContinualReberTask,
    "copy_memory": CopyMemoryTask,
    "digits": DigitsTask,
}
