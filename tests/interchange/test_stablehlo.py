"""The exported programs, in a process that cannot import this package."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import lstm_jax
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.interchange.stablehlo import PLATFORMS, save_stablehlo
from lstm_jax.model import Interface
from lstm_jax.run.description import Description

ALONE = """
import sys
sys.modules["lstm_jax"] = None
import jax, numpy as np
from jax import export
given = np.load("given.npz")
step, sequence = (export.deserialize(open(f"m.{w}", "rb").read()) for w in ("step", "sequence"))
print(sequence.platforms)
found = {}
for name in ("a", "b"):
    x, states = given[name], [given[f"{name}{n}"] for n in range(int(given["states"]))]
    wholes = sequence.call(x, *states)
    outputs = []
    for x_B in x:
        output, *states = step.call(x_B, *states)
        outputs.append(output)
    for n, whole in enumerate(wholes):
        found[f"{name}{n}"] = whole
        np.testing.assert_allclose(whole, [np.stack(outputs), *states][n], rtol=1e-5, atol=1e-6)
np.savez("found.npz", **found)
"""


@pytest.mark.parametrize("cell, reads_ids", [("lstm", True), ("gru", False)])
def test_programs_run_without_this_package(cell, reads_ids, tmp_path):
    """For two lengths and numbers of lanes each."""
    pytest.importorskip("flatbuffers")
    config = Config().replace({"model.cell": cell, "model.hidden_size": 5, "model.num_layers": 2})
    interface = Interface(7, 7, reads_ids)
    params = lstm_jax.init_model(jax.random.key(0), config.model, interface)
    save_stablehlo(params, Description(config, {}, interface, "float32"), tmp_path / "m")
    rng, given, wanted = np.random.default_rng(0), {}, {}
    for name, T, B in (("a", 6, 1), ("b", 3, 4)):
        shape = (T, B) if reads_ids else (T, B, 7)
        x = rng.integers(7, size=shape) if reads_ids else rng.standard_normal(shape)
        given[name] = x.astype(np.int32 if reads_ids else np.float32)
        carry = jax.tree.map(
            lambda a: rng.standard_normal(a.shape).astype(np.float32),
            lstm_jax.init_carry(params, B),
        )
        given |= {f"{name}{n}": a for n, a in enumerate(jax.tree.leaves(carry))}
        outputs, final = lstm_jax.apply(params, carry, given[name])
        wanted |= {f"{name}{n}": a for n, a in enumerate([outputs, *jax.tree.leaves(final)])}
    given["states"] = np.array(len(jax.tree.leaves(carry)))
    np.savez(tmp_path / "given.npz", **given)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(PLATFORMS)
    found = np.load(tmp_path / "found.npz")
    assert {*found} == {*wanted}
    for name, a in wanted.items():
        np.testing.assert_allclose(found[name], a, rtol=1e-5, atol=1e-6, err_msg=name)
        print(name, np.abs(found[name] - a).max() / np.abs(a).max())


def test_two_files_have_one_name(tmp_path):
    with pytest.raises(UserError, match=r"m\.step without its ending"):
        save_stablehlo(None, None, tmp_path / "m.step")
