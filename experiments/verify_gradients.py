"""Every gradient from every source: autodiff, bptt, NumPy loops and central differences agree.

Without further flags it runs a grid of shapes; with --config.model.…, --config.train.batch_size or
--config.train.sequence_length it verifies that very configuration. Exit code 1 if anything fails.
"""

import dataclasses
import json
import sys
from pathlib import Path

from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.data.fetch import write_atomically
from lstm_jax.figures import draw_verification
from lstm_jax.verify import TOLERANCES, Case, Row, grid, verify, worst


def get_config() -> Config:
    return Config(
        model=ModelConfig(hidden_size=6), train=TrainConfig(batch_size=5, sequence_length=7)
    )


def cases_of(config: Config) -> list[Case]:
    """The grid; or, for a config of the user's own, that config plainly and with everything on."""
    if config == get_config():
        return list(grid())
    model, T, B = config.model, config.train.sequence_length, config.train.batch_size
    dropped = dataclasses.replace(model, dropout=model.dropout or 0.2)
    return [
        Case(model, T, B, seed=config.train.seed),
        Case(dropped, T, B, masked=True, resets=True, carry=True, seed=config.train.seed),
    ]


def report(done: int, total: int) -> None:
    print(f"\rcase {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def table(field: str, rows: list[Row]) -> str:
    """The worst rows for each value of a field, as aligned text."""
    rows = sorted(worst(rows, field, "kind"), key=lambda row: getattr(row, field))
    width = max(len(getattr(row, field)) for row in rows)
    lines = [f"{field:{width}}  kind         abs error  rel error  allowed  1 - cosine  verdict"]
    for row in rows:
        lines.append(
            f"{getattr(row, field):{width}}  {row.kind:11}  {row.absolute:9.1e}  "
            f"{row.relative:9.1e}  "
            f"{TOLERANCES[row.kind]:7.0e}  {max(1 - row.cosine, 0):10.1e}  "
            f"{'ok' if row.passed else 'FAILED'}"
        )
    return "\n".join(lines)


def main(config: Config, workdir: Path) -> int:
    """Prints the tables, writes verification.json and its picture; 1 if anything failed."""
    cases = cases_of(config)
    rows = verify(cases, report)
    failed = [row for row in rows if not row.passed]
    print(table("leaf", rows), end="\n\n")
    print(table("pair", rows), end="\n\n")
    print(
        f"{len(cases)} cases, {sum(row.cases for row in rows)} comparisons, {len(failed)} kinds "
        "of them failed; rel error is relative to the leaf's largest gradient"
    )
    found = [{**row._asdict(), "passed": row.passed} for row in rows]
    write_atomically(workdir / "verification.json", (json.dumps(found, indent=1) + "\n").encode())
    draw_verification(rows, workdir / "figures" / "verification.png")
    return 1 if failed else 0
