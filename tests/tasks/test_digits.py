"""Digits pixel by pixel, on a small set in the published format."""

import gzip
import re
import struct

import jax
import numpy as np
import pytest

from lstm_jax.data.corpora import DATA_DIR_VARIABLE
from lstm_jax.errors import UserError
from lstm_jax.model import apply, init_carry, init_model
from lstm_jax.model_config import ModelConfig
from lstm_jax.tasks.digits import DigitsTask, read_images


def idx(values):
    """Bytes in the published format."""
    head = struct.pack(">HBB", 0, 8, values.ndim)
    return head + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_digits(folder):
    """A small set: images and digits, by `train` and `t10k`; some packed, some not."""
    rng, written = np.random.default_rng(0), {}
    (folder / "mnist").mkdir()
    for kind, count in (("train", 40), ("t10k", 8)):
        images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        digits = rng.integers(10, size=count, dtype=np.uint8)
        written[kind] = images, digits
        (folder / "mnist" / f"{kind}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / "mnist" / f"{kind}-labels-idx1-ubyte").write_bytes(idx(digits))
    return written


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_batch_is_images_pixel_by_pixel(folder):
    images, digits = write_digits(folder)["train"]
    task = DigitsTask("rows", 0, 8, batch_size=5, seed=0)
    seen = []
    for step in range(6):
        batch = task.batch_at(step)
        assert batch.inputs.shape == (784, 5, 1) and batch.inputs.dtype == np.float32
        assert batch.mask[-1].all() and not batch.mask[:-1].any()
        for lane in range(5):
            read = np.rint(batch.inputs[:, lane, 0] * 255).astype(np.uint8).reshape(28, 28)
            (place,) = np.flatnonzero((images == read).all(axis=(1, 2)))
            assert batch.targets[-1, lane] == digits[place] and batch.inputs.max() <= 1
            seen.append(place)
    assert len({*seen}) == 30 and max(seen) < 32  # a round: each once, none to validate on
    assert task.describe() == "digits: 32 images to train on, 8 to validate on"
    assert not np.array_equal(task.batch_at(6).inputs, task.batch_at(0).inputs)


def test_one_order_of_pixels_is_for_all_images(folder):
    """And it follows its own seed, not the training's."""
    write_digits(folder)
    plain, permuted, same, other = (
        DigitsTask(pixels, seed, 8, batch_size=4, seed=3)
        for pixels, seed in (("rows", 0), ("permuted", 0), ("permuted", 0), ("permuted", 1))
    )
    order = np.random.default_rng(0).permutation(784)
    for step in (0, 9):
        inputs = plain.batch_at(step).inputs
        np.testing.assert_array_equal(permuted.batch_at(step).inputs, inputs[order])
        np.testing.assert_array_equal(same.batch_at(step).inputs, inputs[order])
        assert not np.array_equal(other.batch_at(step).inputs, inputs[order])


def test_scores_are_of_images_that_are_kept_for_them(folder):
    written = write_digits(folder)
    task = DigitsTask("rows", 0, 8, batch_size=4, seed=0)
    params = init_model(jax.random.key(0), ModelConfig(hidden_size=2), task.interface)
    read = jax.jit(apply)
    for scored, kind, places in (
        (task, "train", slice(32, 40)),
        (task.scored_on("test"), "t10k", slice(8)),
    ):
        images, digits = (values[places] for values in written[kind])
        inputs = (images.reshape(len(images), 784, 1) / np.float32(255)).swapaxes(0, 1)
        outputs, _ = read(params, init_carry(params, len(images)), inputs.astype(np.float32))
        logits = np.asarray(outputs, np.float64)[-1]
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(digits)), digits]
        found = scored.evaluate(params, None)
        assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert found["wrong"] == np.mean(logits.argmax(-1) != digits)
    assert task.describe().endswith("to validate on")
    with pytest.raises(ValueError, match="no split 'training_end'"):
        task.scored_on("training_end")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "there is no train-labels-idx1-ubyte.gz: put the four"),
        (lambda path: path.write_bytes(b""), "is no file of bytes in IDX format"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is no file of bytes in IDX"),
        (lambda path: path.write_bytes(idx(np.arange(39, dtype=np.uint8))), "not those of MNIST"),
        (lambda path: path.write_bytes(idx(np.full(40, 10, np.uint8))), "not those of MNIST"),
    ],
)
def test_files_that_are_not_the_published_ones(spoil, message, folder):
    write_digits(folder)
    spoil(folder / "mnist" / "train-labels-idx1-ubyte")
    with pytest.raises(UserError, match=message) as error:
        read_images("training")
    assert "\n" not in str(error.value)


def test_a_packed_file_that_was_cut(folder):
    write_digits(folder)
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        UserError, match=f"cannot read {re.escape(str(path))}: .*put the file there"
    ):
        read_images("training")


def test_what_to_do_without_the_files(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"into a folder, and name that in LSTM_JAX_DATA_DIR$"):
        read_images("test")
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=f"into {re.escape(str(tmp_path))}$"):
        read_images("test")


def test_too_few_images_to_train_on(folder):
    write_digits(folder)
    with pytest.raises(UserError, match="40 training images leave 4 to train on, fewer than"):
        DigitsTask("rows", 0, 36, batch_size=5, seed=0)
