"""Handwritten digits, pixel by pixel: 784 brightnesses, and then which digit it was.

Le, Jaitly and Hinton 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear
Units", on the MNIST images of LeCun et al. 1998. The model reads one pixel at a step, row by row,
or, as a harder problem, in an order that was drawn once (`data.pixels=permuted`). It says which of
ten digits it was at the last step alone.

The last `data.validation_images` of the 60,000 training images are validated on, and never trained
on. The 10,000 test images are scored by `--mode=evaluate --split=test` alone. A run shuffles its
training images anew for each round through them.

The four files are read as they are published, from the folder that LSTM_JAX_DATA_DIR names, or from
`mnist` in it.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.data.corpora import DATA_DIR_VARIABLE, data_folder
from lstm_jax.errors import UserError
from lstm_jax.heads import softmax
from lstm_jax.model import Interface, Masks, ModelParams, apply, init_carry
from lstm_jax.options import Section, option
from lstm_jax.tasks.task import Task

PIXELS, DIGITS = 28 * 28, 10
FILES = {"training": "train", "test": "t10k"}  # a set's name, in its files' names
SUBFOLDER = "mnist"
SIDE_BY_SIDE = 500  # images that are scored at a time
SHOWN = 20  # images of a sample


@dataclass(frozen=True)
class DigitsOptions(Section):
    prefix = "data."
    pixels: str = option("rows", "the order of an image's pixels", choices=("rows", "permuted"))
    permutation_seed: int = option(
        0, "draws the order of permuted pixels, one for all images", low=0, high=2**32 - 1
    )
    validation_images: int = option(
        5000,
        "the last so many of the training images are validated on, and not trained on",
        low=1,
        high=59_999,
    )

    def unread(self) -> dict[str, str]:
        needed = "needs data.pixels=permuted: give both, or neither"
        return {} if self.pixels == "permuted" else {"permutation_seed": needed}


class Images(NamedTuple):
    """N images and their digits."""

    pixels: np.ndarray  # bytes, row by row
    digits: np.ndarray

    def at(self, places: Any) -> "Images":
        return Images(self.pixels[places], self.digits[places])


def read_file(name: str) -> bytes:
    """What a published file holds, packed or not; UserError where there is none."""
    folder = data_folder()
    folders = [] if folder is None else [folder, folder / SUBFOLDER]
    for path in (each / (name + end) for each in folders for end in ("", ".gz")):
        if path.exists():
            return unpacked(path)
    where = f"a folder, and name that in {DATA_DIR_VARIABLE}" if folder is None else f"{folder}"
    raise UserError(
        f"there is no {name}.gz: put the four files of MNIST, from train-images-idx3-ubyte.gz to "
        f"t10k-labels-idx1-ubyte.gz, into {where}"
    )


def unpacked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; put the file there again") from error


def read_idx(name: str) -> np.ndarray:
    """The bytes of a file in IDX format: 0, 0, 8 for bytes, the number of axes, their sizes in four
    bytes each, and the values."""
    data = read_file(name)
    try:
        if data[:3] != b"\0\0\x08":
            raise ValueError("it begins with other bytes")
        axes = data[3]
        shape = np.frombuffer(data, ">u4", count=axes, offset=4).astype(int)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (IndexError, ValueError) as error:
        raise UserError(
            f"{name} is no file of bytes in IDX format ({error}): put the published one there"
        ) from error


def read_images(kind: str) -> Images:
    """The images for `training` or `test`; UserError where they cannot be had."""
    images = read_idx(f"{FILES[kind]}-images-idx3-ubyte")
    digits = read_idx(f"{FILES[kind]}-labels-idx1-ubyte")
    if images.shape != (len(digits), 28, 28) or digits.ndim != 1 or (digits >= DIGITS).any():
        raise UserError(
            f"the {kind} images {images.shape} and labels {digits.shape} are not those of MNIST: "
            "put the published files there"
        )
    return Images(images.reshape(len(digits), PIXELS), digits)


@jax.jit
def logits_at_the_end(params: ModelParams, pixels_TxBx1: Array, masks: Masks | None) -> Array:
    """Of each digit, BxN."""
    carry = init_carry(params, pixels_TxBx1.shape[1])
    return apply(params, carry, pixels_TxBx1, masks)[0][-1]


class DigitsTask(Task):
    """Which digit a sequence of pixels shows.

    Args:
      images: what stands for the published images, by `training` and `test`.
    """

    Options = DigitsOptions
    SPLITS = ("test",)
    interface = Interface(1, DIGITS, reads_ids=False)
    unit = "nats/image"
    source = "MNIST"
    meanings = MappingProxyType(
        {
            "loss": "on images that are not trained on",
            "wrong": "the share of them taken for another digit",
        }
    )

    def __init__(
        self,
        pixels: str,
        permutation_seed: int,
        validation_images: int,
        batch_size: int,
        seed: int,
        images: Callable[[str], Images] = read_images,
    ) -> None:
        self.batch_size, self.seed, self.images = batch_size, seed, images
        self.order_T = np.arange(PIXELS)
        if pixels == "permuted":
            self.order_T = np.random.default_rng(permutation_seed).permutation(PIXELS)
        all_images = images("training")
        trained = len(all_images.digits) - validation_images
        if trained < batch_size:
            raise UserError(
                f"{len(all_images.digits)} training images leave {max(trained, 0)} to train on, "
                f"fewer than train.batch_size={batch_size}: take a smaller data.validation_images"
            )
        self.trained, self.scored = (
            all_images.at(slice(trained)),
            all_images.at(slice(trained, None)),
        )
        self.kept_for = "validate"
        self.identity = {"sha256": hashlib.sha256(bytes(all_images.pixels)).hexdigest()}

    @classmethod
    def of(cls, config: Any) -> Self:
        data, train = config.data, config.train
        return cls(
            data.pixels,
            data.permutation_seed,
            data.validation_images,
            train.batch_size,
            train.seed,
        )

    @classmethod
    def steps_of(cls, config: Any) -> int:
        return PIXELS

    def scored_on(self, split: str) -> Self:
        task = super().scored_on(split)
        task.scored, task.kept_for = self.images("test"), "test"
        return task

    def describe(self) -> str:
        trained, scored = len(self.trained.digits), len(self.scored.digits)
        return f"digits: {trained:,} images to train on, {scored:,} to {self.kept_for} on"

    def read(self, images: Images) -> Batch:
        """Images as sequences side by side, with a target at the last step."""
        pixels_TxB = images.pixels.T[self.order_T]
        mask_TxB = np.zeros(pixels_TxB.shape, bool)
        mask_TxB[-1] = True
        targets_TxB = np.where(mask_TxB, images.digits.astype(np.int32), 0)
        return Batch((pixels_TxB / np.float32(255))[..., None], targets_TxB, mask_TxB)

    def batch_at(self, step: int) -> Batch:
        per_round = len(self.trained.digits) // self.batch_size
        n, place = divmod(step, per_round)
        shuffled = np.random.default_rng([self.seed, n]).permutation(len(self.trained.digits))
        lanes_B = shuffled[place * self.batch_size : (place + 1) * self.batch_size]
        return self.read(self.trained.at(lanes_B))

    def answer(self, params: ModelParams, masks: Masks | None, images: Images) -> np.ndarray:
        """The logits of each image, NxN."""
        logits = []
        for first in range(0, len(images.digits), SIDE_BY_SIDE):
            some = self.read(images.at(slice(first, first + SIDE_BY_SIDE)))
            logits.append(np.asarray(logits_at_the_end(params, some.inputs, masks)))
        return np.concatenate(logits)

    def evaluate(self, params: ModelParams, masks: Masks | None) -> dict[str, float]:
        digits = self.scored.digits.astype(np.int32)
        logits_Nx10 = self.answer(params, masks, self.scored)
        losses_N = np.asarray(softmax.losses(jnp.asarray(logits_Nx10), jnp.asarray(digits)))
        return {
            "loss": float(losses_N.mean(dtype=np.float64)),
            "wrong": float(np.mean(logits_Nx10.argmax(-1) != digits)),
        }

    def references(self) -> dict[str, float]:
        return {"uniform guessing": math.log(DIGITS)}

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """The first images that are scored: which digits they are, and which are said."""
        some = self.scored.at(slice(SHOWN))
        answers_N = self.answer(params, masks, some).argmax(-1)
        digits, answers = ("".join(map(str, ids)) for ids in (some.digits, answers_N))
        return f"digits   {digits}\nanswers  {answers}"
