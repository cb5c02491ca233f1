"""A report as arrays with names, for NumPy."""

import io
from typing import Any

import numpy as np

from lstm_jax.inspection.report import Report


def arrays_of(report: Report) -> dict[str, np.ndarray]:
    """Every number of a report, unrounded: `layer0.c` is TxN, `layer0.left.i` N, and so on."""
    arrays: dict[str, Any] = {
        # NumPy drops a NUL at the end of a text, so its picture stands for it.
        "symbols": np.array([symbol.replace("\0", "\u2400") for symbol in report.symbols]),
        "ids": report.ids,
        **{f"surprise.{name}": a for name, a in report.surprise._asdict().items()},
        **{f"feature.{name}": y_T for name, y_T in report.features.items()},
        "reach.ends": np.array(report.reach.ends, int),
    }
    for n, layer in enumerate(report.layers):
        arrays |= {f"layer{n}.{name}": a_TxN for name, a_TxN in layer.fields.items()}
        for name, gate in report.saturated[n].items():
            arrays |= {f"layer{n}.left.{name}": gate.left, f"layer{n}.right.{name}": gate.right}
        arrays |= {f"layer{n}.norm.{name}": a_T for name, a_T in report.norms[n].items()}
        arrays[f"layer{n}.dead"] = np.array(report.dead[n], int)
    for n, by_field in enumerate(report.reach.layers):
        arrays |= {f"layer{n}.reach.{name}": a_KxE for name, a_KxE in by_field.items()}
    rows = [(name, *unit) for name, units in report.found.items() for unit in units]
    names = ("feature", "layer", "unit", "field", "sign", "chosen", "scored", "threshold")
    for place, name in enumerate((*names, "accuracy")):
        values = [row[place] for row in rows]
        number = name in ("chosen", "scored", "threshold", "accuracy")
        arrays[f"found.{name}"] = np.array(values, float) if number else np.array(values)
    return {name: np.asarray(a) for name, a in arrays.items()}


def archive(report: Report) -> bytes:
    """The content of an .npz file."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays_of(report))
    return content.getvalue()
