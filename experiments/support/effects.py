"""What a random search says: whether variants differ, and how much a hyperparameter decides.

The paper's fANOVA fits a forest of trees and takes its variance apart. Here is something simpler:
the variance between bins of a hyperparameter, as a share of all. So many configurations vary in
everything else within each bin, so the shares of bins that mean nothing are taken off.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # below which a difference is called significant
MOST_BINS = 6  # of a hyperparameter, with as many configurations in each
IN_A_CELL = 4  # configurations, at the least, where two hyperparameters are taken together


class Comparison(NamedTuple):
    """A variant against the base, by the best of both."""

    difference: float  # of the means: positive where the variant's losses are higher
    p: float  # of Welch's t-test, times the number of comparisons, 1 at the most

    @property
    def worse(self) -> bool:
        return self.p < LEVEL and self.difference > 0

    @property
    def better(self) -> bool:
        return self.p < LEVEL and self.difference < 0


def best_tenth(losses: Sequence[float]) -> list[float]:
    """The lowest losses, a tenth of all and at least one, from the lowest."""
    return sorted(losses)[: math.ceil(len(losses) / 10)]


def compare(best: Sequence[float], base: Sequence[float], comparisons: int) -> Comparison | None:
    """Welch's t-test, with Bonferroni's correction; None where there are too few numbers."""
    if min(len(best), len(base)) < 2:
        return None
    difference = float(np.mean(best) - np.mean(base))
    if not (np.std(best) or np.std(base)):  # no test is needed
        return Comparison(difference, float(difference == 0))
    from scipy import stats  # which JAX depends on; it takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that are nearly the same
        p = float(stats.ttest_ind(best, base, equal_var=False).pvalue)
    return Comparison(difference, min(1.0, p * comparisons))


def in_bins(values: np.ndarray, count: int) -> np.ndarray:
    """The number of each value's bin, where all bins have as many values, give or take one."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return ranks * count // len(values)


def share_between(groups: np.ndarray, losses: np.ndarray) -> float:
    """The share of the losses' variance that lies between groups: epsilon squared.

    That is (B - (g - 1) W / (n - g)) / (B + W), for sums of squares B between the g groups of n
    losses and W within. Of groups that mean nothing it is 0 on average; less is said as 0.
    """
    names = np.unique(groups)
    total = float(np.sum((losses - losses.mean()) ** 2))
    if not total or len(losses) <= len(names):
        return 0.0
    parts = [losses[groups == name] for name in names]
    within = sum(float(np.sum((part - part.mean()) ** 2)) for part in parts)
    free = len(losses) - len(names)
    return max(0.0, (total - within - (len(names) - 1) * within / free) / total)


def shares(
    hyperparameters: Mapping[str, Sequence[float]], losses: Sequence[float]
) -> dict[str, float]:
    """The share of each hyperparameter by itself, and what the first two have together, besides."""
    values = np.asarray(losses, np.float64)
    count = min(MOST_BINS, max(2, math.isqrt(len(values) // IN_A_CELL)))
    bins = {name: in_bins(np.asarray(of), count) for name, of in hyperparameters.items()}
    found = {name: share_between(of, values) for name, of in bins.items()}
    one, other = list(bins)[:2]
    both = share_between(bins[one] * count + bins[other], values)
    found[f"{one} x {other}"] = max(0.0, both - found[one] - found[other])
    return found
