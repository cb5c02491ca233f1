"""Verification: every gradient from every source, compared leaf by leaf.

Sources that share no derivation: `autodiff` is JAX's reverse mode through the scan, `bptt` is by
hand, in JAX, in either layout. `reference` is by hand, in NumPy loops; `differences` are central
differences of the loss. The truncated rule has its own: by hand in JAX in either layout, by
stop_gradient, by NumPy loops.

The shapes that are trained (`verify_as_trained`) are too large for loops and differences: there the
sources in float64 answer for one another, and for the gradients in float32.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells import CELLS
from lstm_jax.cells.passes import COLUMNS, ROWS
from lstm_jax.container import usable_cpus
from lstm_jax.data.batches import Values
from lstm_jax.gradients import GRADIENTS, GradFn, bptt, by_jax
from lstm_jax.gradients.known import missing_by_hand
from lstm_jax.gradients.weight_drop import with_weight_drop
from lstm_jax.heads import HEADS, Head
from lstm_jax.loss import sequence_loss
from lstm_jax.model import ModelParams, named_leaves
from lstm_jax.precision import in_bfloat16
from lstm_jax.verification.cases import Case, Problem, make_problem, make_weight_masks
from lstm_jax.verification.notebook import reference_gradient

# Largest error allowed, as a share of the leaf's largest gradient.
# `default` is float32 at the platform's own precision of products, which may have ten bits (TF32).
# `bfloat16` is between two gradients in mixed precision. They round the same factors, but one that
# lies between two numbers may go either way, by 2**-8 of it, or 4e-3; in a large model some do.
# `rounding` is between one in mixed precision and one in float64.
TOLERANCES = {
    "float64": 1e-12,
    "differences": 1e-7,
    "float32": 1e-5,
    "bfloat16": 1e-2,
    "rounding": 5e-2,
    "default": 5e-2,
}
MIXED = "bfloat16"  # of the dtypes the one that is float32 outside the products
DIFFERENCE_STEP = 1e-3
# The widest layer that the NumPy loops are run on: seconds there, a minute at 512.
LOOPS_UP_TO = 256

# Compiles in half the time, to slower code for the same formulas. Later releases have no other
# emitters to choose.
UNOPTIMIZED: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    UNOPTIMIZED["xla_cpu_use_fusion_emitters"] = False

MOST_WORKERS = 8
# Each compiled program takes some of the memory maps that a process may have.
KEPT_PROGRAMS = 32


class Row(NamedTuple):
    """How far two sources are apart on one leaf, at worst over the cases."""

    pair: str  # such as `autodiff ~ bptt`
    kind: str  # a key of TOLERANCES
    leaf: str  # such as `layers[0].U`
    absolute: float
    relative: float  # to the leaf's largest gradient
    cosine: float
    cases: int
    cell: str = ""  # of the model

    @property
    def allowed(self) -> float:
        return TOLERANCES[self.kind]

    @property
    def passed(self) -> bool:
        return self.relative <= self.allowed


@lru_cache(KEPT_PROGRAMS)
def compile_gradients(
    gradients: tuple[GradFn, ...],
    dtypes: tuple[str, ...],
    optimized: bool = True,
    precision: str | None = "highest",
) -> Callable[..., list[list[ModelParams]]]:
    """(params, carry, batch, masks) -> for each dtype each gradient, by one compiled program.

    One program, because compiling is what takes the time and gradients that share their forward
    compile faster together. Without `optimized` it compiles faster still, to slower code for the
    same formulas. `precision` is that of float32 products: GPUs and TPUs may by themselves
    (None) run them in fewer bits. The dtype MIXED is that of the products' factors.
    """

    def all_of(*problem: object) -> list[list[ModelParams]]:
        return [[take(grad, problem, dtype) for grad in gradients] for dtype in dtypes]

    compiled = jax.jit(all_of, compiler_options=None if optimized else UNOPTIMIZED)

    def run(*problem: object) -> list[list[ModelParams]]:
        with jax.enable_x64("float64" in dtypes), jax.default_matmul_precision(precision):
            gradients_by_dtype = compiled(*problem)
        for dtype, grads in zip(dtypes, gradients_by_dtype, strict=True):
            found = {str(leaf.dtype) for leaf in jax.tree.leaves(grads)}
            if strays := found - {outside_products(dtype)}:
                raise TypeError(f"gradients in {dtype} came out as {', '.join(sorted(strays))}")
        return jax.tree.map(lambda a: np.asarray(a, np.float64), gradients_by_dtype)

    return run


def outside_products(dtype: str) -> str:
    """The dtype of parameters and gradients."""
    return "float32" if dtype == MIXED else dtype


def take(gradient: GradFn, problem: Any, dtype: str) -> ModelParams:
    """The gradient of a float64 problem in a dtype."""
    gradient = in_bfloat16(gradient) if dtype == MIXED else gradient
    return gradient(*cast(problem, outside_products(dtype)))[1]


def cast(problem: Any, dtype: str) -> Any:
    """The problem with its float64 numbers in another float dtype."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if a.dtype == np.float64 else None), problem)


@cache
def compile_loss(head: Head) -> Callable[..., float]:
    """(params, carry, batch, masks) -> the loss in float64, for the central differences."""
    compiled = jax.jit(partial(sequence_loss, head=head), compiler_options=UNOPTIMIZED)

    def run(*problem: object) -> float:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            return float(compiled(*problem)[0])

    return run


def difference(
    loss: Callable[[ModelParams], float], params: ModelParams, leaf: int, direction: np.ndarray
) -> float:
    """The slope of the loss along a direction of one leaf, by central differences of fourth order.

    With step s the formula errs by about s^4 and its rounding by eps / s; in float64 s = 1e-3
    balances them near 1e-12.
    """
    leaves, structure = jax.tree.flatten(params)

    def loss_at(offset: float) -> float:
        moved = leaves[leaf] + offset * direction
        return loss(jax.tree.unflatten(structure, [*leaves[:leaf], moved, *leaves[leaf + 1 :]]))

    s = DIFFERENCE_STEP
    return (8 * (loss_at(s) - loss_at(-s)) - (loss_at(2 * s) - loss_at(-2 * s))) / (12 * s)


def make_row(pair: str, kind: str, leaf: str, a: Values, b: Values, scale: float) -> Row:
    """How far two gradients of a leaf are apart, where its largest gradient is `scale`.

    What is not finite, or of another shape, is infinitely far.
    """
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Row(pair, kind, leaf, math.inf, math.inf, 0.0, 1)
    absolute = float(np.abs(a - b).max())
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(np.vdot(a, b)) / norms if norms else float(absolute == 0)
    # A leaf that no error reaches has gradient 0 from both; differences have their rounding.
    unreached = DIFFERENCE_STEP if kind == "differences" else absolute or 1.0
    return Row(pair, kind, leaf, absolute, absolute / (float(scale) or unreached), cosine, 1)


def compare(pair: str, kind: str, first: ModelParams, second: ModelParams) -> list[Row]:
    """One row per leaf."""
    others = named_leaves(second)
    return [
        make_row(
            pair, kind, name, a, others[name], max(np.abs(a).max(), np.abs(others[name]).max())
        )
        for name, a in named_leaves(first).items()
    ]


def compare_differences(
    case: Case, problem: Problem, sources: dict[str, ModelParams], count: int
) -> list[Row]:
    """Each source against central differences along `count` random directions of every leaf.

    A direction moves every coordinate, each by its own part.
    """
    rng, rows, compiled = np.random.default_rng(0), [], compile_loss(HEADS[case.head])

    def loss(params: ModelParams) -> float:
        return compiled(params, *problem[1:])

    for index, (name, values) in enumerate(named_leaves(problem.params).items()):
        directions = rng.standard_normal((count, *values.shape)) / math.sqrt(values.size)
        slopes = np.array([difference(loss, problem.params, index, d) for d in directions])
        for source, gradient in sources.items():
            leaf = named_leaves(gradient)[name]
            products = np.array([np.vdot(leaf, d) for d in directions])
            pair = f"{source} ~ differences"
            rows.append(make_row(pair, "differences", name, slopes, products, np.abs(leaf).max()))
    return rows


RULES = ("full", "truncated")
# What the NumPy reference leaves out for each rule.
DEFECTS = {"full": frozenset(), "truncated": frozenset({"no_recurrence"})}


def truncated_autodiff(*problem: Any, head: Head) -> Any:
    """The truncated rule by JAX and a stop_gradient."""
    return by_jax(head, truncated=True)(*problem)


def autodiff(*problem: Any, head: Head) -> Any:
    """JAX's gradient."""
    return GRADIENTS["autodiff"](head)(*problem)


class Suspects(NamedTuple):
    """The gradients under test, so that a broken one can be put in (the mutation suite does).

    Each takes a problem, and the head as an argument by name.
    """

    autodiff: Callable[..., Any] = autodiff
    rows: Callable[..., Any] = partial(bptt.value_and_grad, layout=ROWS)
    columns: Callable[..., Any] = partial(bptt.value_and_grad, layout=COLUMNS)
    truncated_rows: Callable[..., Any] = partial(bptt.value_and_grad, layout=ROWS, truncated=True)
    truncated_columns: Callable[..., Any] = partial(
        bptt.value_and_grad, layout=COLUMNS, truncated=True
    )


@cache  # one function for each head, so that its programs are found again
def with_head(function: Callable[..., Any], head: Head) -> GradFn:
    """A suspect's gradient under a head."""
    return partial(function, head=head)


def verify_case(
    case: Case,
    suspects: Suspects = Suspects(),
    *,
    directions: int = 1,
    truncated: bool = True,
    float32: bool = True,
    columns32: bool = True,
    bfloat16: bool = False,
    optimized: bool = True,
) -> list[Row]:
    """Every pair of sources on one case.

    Args:
      directions: along how many of each leaf it is compared with central differences.
      truncated: the truncated rule's sources as well, where the cell has that rule.
      float32: the float32 gradients as well, against each other and the float64 reference.
      columns32: the float32 gradients by the columns as well.
      bfloat16: those in mixed precision as well, against each other and against float64.
      optimized: see `compile_gradients`; float32 then is a program of its own, as in training.
    """
    problem, cell = make_problem(case), CELLS[case.model.cell]
    if missing_by_hand([cell], case.scored_by):
        return verify_by_differences(
            case, problem, suspects.autodiff, directions, bfloat16, optimized
        )
    dtypes = ("float64", *["float32"] * float32, *[MIXED] * bfloat16)
    rules = RULES[: 1 + (truncated and cell.truncate is not None)]
    gradients: dict[tuple[str, str], dict[str, ModelParams]] = {
        (d, r): {} for d in dtypes for r in rules
    }

    def take(sources: dict[str, Callable[..., Any]], dtypes: tuple[str, ...] = dtypes) -> None:
        """Takes the gradients by named sources, one per rule, in each dtype."""
        named = dict(zip(rules, sources.items(), strict=False))
        functions = tuple(with_head(function, case.scored_by) for _, function in named.values())
        for program in [(dtype,) for dtype in dtypes] if optimized else [dtypes]:
            by_dtype = compile_gradients(functions, program, optimized)(*problem)
            for dtype, grads in zip(program, by_dtype, strict=True):
                for (rule, (name, _)), grad in zip(named.items(), grads, strict=True):
                    gradients[dtype, rule][name] = grad

    take({"autodiff": suspects.autodiff, "stop_gradient": truncated_autodiff})
    take({"bptt rows": suspects.rows, "truncated rows": suspects.truncated_rows})
    if COLUMNS.name in cell.by_hand:
        take(
            {"bptt columns": suspects.columns, "truncated columns": suspects.truncated_columns},
            tuple(dtype for dtype in dtypes if columns32 or dtype != "float32"),
        )
    for rule in rules if case.plain else ():
        grad = reference_gradient(problem, DEFECTS[rule])
        for dtype in dtypes[: 1 + float32]:
            gradients[dtype, rule]["reference" if rule == "full" else f"{rule} reference"] = grad

    rows = [row for (d, _), sources in gradients.items() for row in compare_all(d, sources)]
    for rule in rules if bfloat16 else ():
        exact = next(iter(gradients["float64", rule].values()))  # autodiff's
        rows += compare_rounded(gradients[MIXED, rule], exact)
    if directions:
        rows += compare_differences(case, problem, gradients["float64", "full"], directions)
    return of_cell(case, rows)


def compare_rounded(mixed: dict[str, ModelParams], exact: ModelParams) -> list[Row]:
    """Sources in mixed precision, against a gradient in float64."""
    return [
        row
        for name, gradient in mixed.items()
        for row in compare(f"{name} ~ float64", "rounding", gradient, exact)
    ]


def of_cell(case: Case, rows: list[Row]) -> list[Row]:
    """The rows, with the cell that they are of."""
    return [row._replace(cell=case.model.cell) for row in rows]


def verify_by_differences(
    case: Case,
    problem: Problem,
    autodiff: Callable[..., Any],
    directions: int,
    bfloat16: bool,
    optimized: bool,
) -> list[Row]:
    """The one gradient of a model that the others do not know, against central differences."""
    function = with_head(autodiff, case.scored_by)
    dtypes = ("float64", *[MIXED] * bfloat16)
    (exact,), *mixed = compile_gradients((function,), dtypes, optimized)(*problem)
    rows = compare_differences(case, problem, {"autodiff": exact}, directions)
    for (rounded,) in mixed:
        rows += compare_rounded({"autodiff": rounded}, exact)
    return of_cell(case, rows)


@cache  # one function for each gradient, so that its programs are found again
def with_weights(gradient: GradFn) -> Callable[..., Any]:
    """The gradient with the weight drop's masks as one argument more."""

    def dropped(params: Any, carry: Any, batch: Any, masks: Any, weights: Any) -> Any:
        return with_weight_drop(gradient, weights)(params, carry, batch, masks)

    return dropped


def verify_as_trained(case: Case, suspects: Suspects = Suspects()) -> list[Row]:
    """A shape that is trained: in float64 all sources against each other, in float32 each against
    autodiff in float64; and the default gradient as training runs it, in the layout and the
    precision that the platform chooses."""
    problem, weights = make_problem(case), make_weight_masks(case)
    sources = {
        "autodiff": with_head(suspects.autodiff, case.scored_by),
        "bptt rows": with_head(suspects.rows, case.scored_by),
    }
    if COLUMNS.name in CELLS[case.model.cell].by_hand:
        sources["bptt columns"] = with_head(suspects.columns, case.scored_by)

    def take(gradient: GradFn, dtype: str, precision: str | None = "highest") -> ModelParams:
        function = with_weights(gradient)
        compiled = compile_gradients((function,), (dtype,), precision=precision)
        return compiled(*problem, weights)[0][0]

    exact = {name: take(gradient, "float64") for name, gradient in sources.items()}
    if case.plain and max(case.model.layer_sizes) <= LOOPS_UP_TO:
        exact["reference"] = reference_gradient(problem, weights=weights)
    rows, oracle = compare_all("float64", exact), exact["autodiff"]
    for name, gradient in sources.items():
        rows += compare(f"{name} ~ float64", "float32", take(gradient, "float32"), oracle)
    default = take(GRADIENTS["bptt"](case.scored_by), "float32", precision=None)
    return rows + compare("bptt as trained ~ float64", "default", default, oracle)


def compare_all(kind: str, sources: dict[str, ModelParams]) -> list[Row]:
    """Every pair of the sources, leaf by leaf."""
    return [
        row
        for a, b in combinations(sources, 2)
        for row in compare(f"{a} ~ {b}", kind, sources[a], sources[b])
    ]


def worst(rows: list[Row], *fields: str) -> list[Row]:
    """The rows that agree in `fields` as one: their largest errors, smallest cosine, all cases."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    return [
        group[0]._replace(
            absolute=max(row.absolute for row in group),
            relative=max(row.relative for row in group),
            cosine=min(row.cosine for row in group),
            cases=sum(row.cases for row in group),
        )
        for group in groups.values()
    ]


def workers() -> int:
    """How many cases to verify side by side: each compiles its programs in turn, on one core."""
    return min(max(usable_cpus(), 2), MOST_WORKERS)


def verify(
    cases: list[Case], report: Callable[[int, int], None] = lambda done, total: None
) -> list[Row]:
    """All cases, side by side; one row for each pair, kind, leaf and cell: the worst of the cases.

    Compiling is what takes the time. So only every sixth case has the truncated rule, and those and
    the last have the columns in float32; every fourth and the last have mixed
    precision. The last is compiled as training is, and all of them where the device is no CPU. A
    model that the backward by hand does not know has autodiff and the differences.
    """
    rows: list[Row] = []
    on_cpu = jax.default_backend() == "cpu"

    def run(number: int) -> list[Row]:
        last, sixth = number == len(cases) - 1, number % 6 == 0
        return verify_case(
            cases[number],
            truncated=sixth and not last,
            columns32=sixth or last,
            bfloat16=number % 4 == 1 or last,
            optimized=last or not on_cpu,
        )

    with ThreadPoolExecutor(workers()) as pool:
        longest_first = reversed(range(len(cases)))
        for done, of_case in enumerate(pool.map(run, longest_first), start=1):
            rows += of_case
            report(done, len(cases))
    return worst(rows, "pair", "kind", "leaf", "cell")
