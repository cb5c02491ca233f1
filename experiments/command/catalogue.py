"""The experiments that there are: what is trained, and what is measured."""

from types import ModuleType

from experiments.recipes import (
    adding,
    continual_reber,
    copy_memory,
    digits,
    digits_permuted,
    embedded_reber,
    long_lags,
    multiplication,
    notebook,
    shakespeare,
    temporal_order,
    tiny_shakespeare_hour,
    tiny_shakespeare_small,
    two_sequences,
    very_long_lags,
)
from experiments.studies import (
    benchmark,
    benchmark_sampling,
    device_check,
    figures,
    gradient_flow,
    learning_to_forget,
    long_sequences,
    notebook_audit,
    odyssey,
    speedrun,
    table_1997,
    tiny_shakespeare,
    tiny_shakespeare_ablation,
    verify_gradients,
    verify_recipes,
)
from experiments.support.experiment_file import is_file, known_experiment, load_experiment

# A recipe is a module with a `get_config`, which is trained. A study has more: what it does in
# place of training (`main`), the config values that it READS, and the flags that it IGNORES. One
# that does something else where no value is given has a `main_unchanged`.
EXPERIMENTS: dict[str, ModuleType] = {
    "shakespeare": shakespeare,
    "tiny_shakespeare": tiny_shakespeare,
    "tiny_shakespeare_small": tiny_shakespeare_small,
    "tiny_shakespeare_hour": tiny_shakespeare_hour,
    "tiny_shakespeare_ablation": tiny_shakespeare_ablation,
    "notebook": notebook,
    "adding": adding,
    "embedded_reber": embedded_reber,
    "continual_reber": continual_reber,
    "copy_memory": copy_memory,
    "digits": digits,
    "digits_permuted": digits_permuted,
    "multiplication": multiplication,
    "temporal_order": temporal_order,
    "two_sequences": two_sequences,
    "long_lags": long_lags,
    "very_long_lags": very_long_lags,
    "notebook_audit": notebook_audit,
    "verify_gradients": verify_gradients,
    "verify_recipes": verify_recipes,
    "device_check": device_check,
    "benchmark": benchmark,
    "benchmark_sampling": benchmark_sampling,
    "long_sequences": long_sequences,
    "gradient_flow": gradient_flow,
    "learning_to_forget": learning_to_forget,
    "odyssey": odyssey,
    "speedrun": speedrun,
    "table_1997": table_1997,
    "figures": figures,
}


def find_experiment(name: str) -> ModuleType:
    """The experiment of a name, or in a file; UserError where there is none."""
    return load_experiment(name) if is_file(name) else known_experiment(name, EXPERIMENTS)


def is_study(experiment: ModuleType) -> bool:
    """Whether an experiment does something of its own in place of training a config."""
    return hasattr(experiment, "main")


def ignored_by(experiment: str) -> tuple[str, ...]:
    """The flags that mean nothing to an experiment."""
    return getattr(find_experiment(experiment), "IGNORES", ())
