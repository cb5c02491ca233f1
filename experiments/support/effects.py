"""What a random search says: whether variants differ, and how much a hyperparameter decides.

Of a few dozen configurations that are drawn for each variant, one variant's may be luckier than
another's. So what was drawn is taken into account: all losses are fitted by one surface over the
hyperparameters, and a variant is how far it lies above or below.

The paper's fANOVA fits a forest of trees and takes its variance apart. Here is something simpler:
the variance between bins of a hyperparameter, as a share of all. So many configurations vary in
everything else within each bin, so the shares of bins that mean nothing are taken off.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # below which a difference is called significant
MOST_BINS = 6  # of a hyperparameter, with as many configurations in each
LEAST_FREE = 30  # losses, beyond what a fit has of numbers
IN_A_CELL = 4  # configurations, at the least, where two hyperparameters are taken together


class Comparison(NamedTuple):
    """A variant's losses against the base's, what was drawn for both taken into account."""

    ratio: float  # of the losses: above 1 where the variant's are higher
    p: float  # of a t-test, times the number of comparisons, 1 at the most
    ratios: list[float]  # of each of its losses to what the base's would be by the same draw

    @property
    def worse(self) -> bool:
        return self.p < LEVEL and self.ratio > 1

    @property
    def better(self) -> bool:
        return self.p < LEVEL and self.ratio < 1


def best_tenth(losses: Sequence[float]) -> list[float]:
    """The lowest losses, a tenth of all and at least one, from the lowest."""
    return sorted(losses)[: math.ceil(len(losses) / 10)]


def surface(drawn_NxD: np.ndarray) -> np.ndarray:
    """What a loss is fitted by: each hyperparameter, products of two, and the first one's cube."""
    spread = np.maximum(drawn_NxD.std(axis=0), np.finfo(float).tiny)
    z_NxD = (drawn_NxD - drawn_NxD.mean(axis=0)) / spread
    first, other = np.triu_indices(z_NxD.shape[1])
    return np.hstack([z_NxD, z_NxD[:, first] * z_NxD[:, other], z_NxD[:, :1] ** 3])


def compare(
    drawn: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray], base: str
) -> dict[str, Comparison]:
    """Each variant against the base, and the base itself, by least squares on the logarithm of the
    losses, with Bonferroni's correction; nothing where there are too few losses for a fit.

    Args:
      drawn: of each variant, NxD, on scales on which a loss is smooth.
      losses: of each variant, N, above 0.
    """
    names = list(drawn)
    variant_N = np.repeat(np.arange(len(names)), [len(drawn[name]) for name in names])
    of_variant = np.eye(len(names))[variant_N]
    fitted_by = np.hstack([of_variant, surface(np.concatenate([drawn[n] for n in names]))])
    log_losses = np.log(np.concatenate([losses[n] for n in names]))
    fit, _, rank, _ = np.linalg.lstsq(fitted_by, log_losses)
    free = len(log_losses) - int(rank)
    if free < LEAST_FREE or len({*variant_N}) < len(names):
        return {}
    from scipy import stats  # which JAX depends on; it takes a second to import

    left = log_losses - fitted_by @ fit
    covariance = np.sum(left**2) / free * np.linalg.pinv(fitted_by.T @ fitted_by)
    above = fit[: len(names)] - fit[b := names.index(base)]
    variances = np.diag(covariance) + covariance[b, b] - 2 * covariance[b]
    found = {}
    for n, name in enumerate(names):
        error = math.sqrt(max(variances[n], 0.0))
        p = 2 * float(stats.t.sf(abs(above[n]) / error, free)) if error else float(not above[n])
        ratios = np.exp(left[variant_N == n] + above[n]).tolist()
        found[name] = Comparison(math.exp(above[n]), min(1.0, p * (len(names) - 1)), ratios)
    return found


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
