"""One page of HTML that shows a report: it reads nothing else, and no network.

Of the files in `web/` it is made, and of the numbers as JSON. No text is put into the HTML itself:
the scripts put it on the page as text, whatever it is.
"""

from importlib import resources
from typing import Any

import numpy as np

from lstm_jax.inspection.choice import by_interest, chosen
from lstm_jax.inspection.packing import packed, quantized, rounded, script_json
from lstm_jax.inspection.report import Report
from lstm_jax.inspection.saturation import LEFT, RIGHT, STILL

MOST_BYTES = 2_900_000  # of a page
SCRIPTS = ("data.js", "build.js", "text.js", "unit.js", "found.js", "charts.js", "main.js")


def page(report: Report, title: str, facts: dict[str, str]) -> str:
    """The page. `facts`: what is said of the model and the text, by what it is called."""
    web = resources.files(__package__).joinpath("web")
    parts = {
        "/*style*/": web.joinpath("page.css").read_text("utf-8"),
        "/*scripts*/": "\n".join(web.joinpath(name).read_text("utf-8") for name in SCRIPTS),
    }
    html, data = web.joinpath("page.html").read_text("utf-8"), data_of(report, title, facts)
    around = len(html) + sum(map(len, parts.values())) + len(script_json(data))
    room = (MOST_BYTES - around) * 3 // 4 // (len(report.ids) + 40)
    parts["/*data*/"] = script_json(data | traces_of(report, max(room, 1)))
    for mark, content in parts.items():
        html = html.replace(mark, content)
    return html


def traces_of(report: Report, room: int) -> dict[str, Any]:
    """At most so many traces, those that stand out, one after another."""
    fields = chosen(report.layers, by_interest(report.layers, report.found), room)
    each = [
        ((n, unit, name), quantized(report.layers[n].fields[name][:, unit]))
        for (n, unit), names in fields.items()
        for name in names
    ]
    return {
        "traces": [[*key, rounded(low), rounded(high)] for key, (_, low, high) in each],
        "bytes": packed(np.concatenate([levels_T for _, (levels_T, _, _) in each]), "u1"),
    }


def data_of(report: Report, title: str, facts: dict[str, str]) -> dict[str, Any]:
    """All but the traces."""
    likeliest, probabilities = report.surprise.likeliest, report.surprise.probabilities
    used, places = np.unique(np.concatenate([report.ids, likeliest.ravel()]), return_inverse=True)
    T = len(report.ids)
    return {
        "title": title,
        "facts": [*facts.items()],
        "symbols": [report.symbols[n] for n in used],
        "ids": packed(places[:T], "u4"),
        "nats": packed(report.surprise.nats, "f4"),
        "likeliest": packed(places[T:], "u4"),
        "probabilities": packed(np.rint(probabilities * 65535), "u2"),
        "alternatives": likeliest.shape[1],
        "features": [feature_of(report, name) for name in report.features],
        "layers": [layer_of(report, n) for n in range(len(report.layers))],
        "reach": reach_of(report),
        "limits": {"left": LEFT, "right": RIGHT, "still": STILL},
    }


def feature_of(report: Report, name: str) -> dict[str, Any]:
    """A feature, where it is true (as bits), and the units that go with it."""
    y_T = report.features[name]
    is_true = packed(np.packbits(y_T, bitorder="little"), "u1") if y_T.dtype == bool else None
    found = [
        [*unit[:4], *(None if value is None else rounded(value) for value in unit[4:])]
        for unit in report.found[name]
    ]
    return {"name": name, "where": is_true, "found": found}


def layer_of(report: Report, n: int) -> dict[str, Any]:
    """A layer as a whole."""
    layer = report.layers[n]
    return {
        "units": layer.fields[layer.memory].shape[1],
        "memory": layer.memory,
        "fields": [*layer.fields],
        "gates": layer.gates,
        "dead": report.dead[n],
        "saturation": {
            name: [packed(np.rint(share_N * 255), "u1") for share_N in gate]
            for name, gate in report.saturated[n].items()
        },
        "norms": {name: packed(norm_T, "f4") for name, norm_T in report.norms[n].items()},
    }


def reach_of(report: Report) -> dict[str, Any]:
    """The median over the steps that the gradient was followed back from, and quartiles."""
    lines = [
        {
            name: rounded(np.quantile(a_KxE, (0.25, 0.5, 0.75), axis=1).tolist())
            for name, a_KxE in by_field.items()
        }
        for by_field in report.reach.layers
    ]
    return {"ends": len(report.reach.ends), "by_hand": report.reach.by_hand, "layers": lines}
