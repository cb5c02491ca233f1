"""The lines of `metrics.jsonl`: what a dispatch comes to."""

import jax
import numpy as np

from lstm_jax.config import ModelConfig
from lstm_jax.model import count_parameters, init_model
from lstm_jax.run.journal import Journal
from lstm_jax.run.metrics import read_metrics
from lstm_jax.train import StepInfo
from tests.small import CONFIG


def make_journal(workdir, step=0, on_metrics=None):
    return Journal(workdir, step, 12, lambda: None, on_metrics)


def test_a_line_has_the_mean_norm_of_each_leafs_gradient_over_the_finite_steps(tmp_path):
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=2, num_layers=1), 3)
    leaves, tree = jax.tree.flatten(params)
    norms_LxK = np.arange(3 * len(leaves), dtype=np.float32).reshape(len(leaves), 3) / 7
    norms_LxK[1, 1] = np.inf
    infos = StepInfo(
        loss=np.ones(3, np.float32),
        grad_norm=np.sqrt((norms_LxK**2).sum(0)),
        leaf_norms=tree.unflatten([*norms_LxK]),
        learning_rate=np.ones(3, np.float32),
    )
    line = make_journal(tmp_path).line(3, infos, 1.0)
    found = [line[f"grad_norm/{name}"] for name in ("layers[0].W", "layers[0].U", "layers[0].b")]
    np.testing.assert_allclose(found, [(n + n + 2) / 2 / 7 for n in (0, 3, 6)], rtol=1e-5)
    assert len([name for name in line if name.startswith("grad_norm/")]) == len(leaves) == 5


def test_every_line_of_a_run_has_each_leafs_norm(finished):
    names = [*count_parameters(init_model(jax.random.key(0), CONFIG.model, 4))]
    for line in read_metrics(finished):
        norms = [line[f"grad_norm/{name}"] for name in names]
        # Of one step the squares add up to the global norm's; a mean of norms is no less.
        assert 0 < np.linalg.norm(norms) <= line["grad_norm"] * (1 + 1e-5)
