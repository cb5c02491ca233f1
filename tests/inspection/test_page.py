"""The page and the archive: what they hold is what was measured, and any text is only text."""

import base64
import io
import json
import re

import jax
import numpy as np
import pytest

from lstm_jax.data.octets import Bytes
from lstm_jax.data.vocabulary import Vocabulary
from lstm_jax.data.words import Words
from lstm_jax.inspection import page as pages
from lstm_jax.inspection.archive import archive
from lstm_jax.inspection.packing import quantized, script_json
from lstm_jax.inspection.page import page
from lstm_jax.inspection.report import look_into, symbols_of
from lstm_jax.model import init_model
from lstm_jax.model_config import ModelConfig
from tests.cli import EVALUATE, TEXT, TRAIN, call, is_one_line, line_of, process_in

# Markup, what ends a script, quotes, controls, a right-to-left override, a line separator, Hebrew,
# a combining accent, an emoji.
HOSTILE = (
    "</script><script>alert(1)</script><!--<b>&amp;\"'\\\0\x1b\x7f\x85\u202e\u2028אב\u0301😀\r\n\t"
)


def report_of(text, **options):
    """A small model with random weights, looking at a text in its own characters."""
    vocabulary = Vocabulary("".join(sorted({*text})))
    config = ModelConfig(**{"hidden_size": 5, "num_layers": 2} | options)
    params = init_model(jax.random.key(0), config, len(vocabulary))
    return look_into(params, vocabulary.encode(text), symbols_of(vocabulary))


@pytest.fixture(scope="module")
def report():
    return report_of(HOSTILE + 'He said "no" (twice).\n\nMAN:\nYes.\n' * 9)


def data_in(html):
    """The page's numbers, as a browser would find them."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_page_holds_what_was_measured(report):
    data, T = data_in(page(report, "a", {"b": "c"})), len(report.ids)
    assert data["title"] == "a" and data["facts"] == [["b", "c"]]
    ids = unpacked(data["ids"], "<u4")
    assert "".join(data["symbols"][n] for n in ids).startswith(HOSTILE)
    np.testing.assert_allclose(unpacked(data["nats"], "<f4"), report.surprise.nats, rtol=1e-6)
    likeliest = unpacked(data["likeliest"], "<u4").reshape(T, data["alternatives"])
    wanted = np.array(report.symbols)[report.surprise.likeliest]
    assert (np.array(data["symbols"])[likeliest] == wanted).all()
    p = unpacked(data["probabilities"], "<u2").reshape(likeliest.shape) / 65535
    np.testing.assert_allclose(p, report.surprise.probabilities, atol=1e-5)
    levels = unpacked(data["bytes"], "u1").reshape(-1, T)
    assert len(levels) == len(data["traces"]) == 2 * 5 * 6  # all of them
    for (layer, unit, field, low, high), levels_T in zip(data["traces"], levels, strict=True):
        a_T = report.layers[layer].fields[field][:, unit]
        step = (a_T.max() - a_T.min()) / 255
        np.testing.assert_allclose(low + levels_T / 255 * (high - low), a_T, atol=0.6 * step + 2e-3)
    for n, layer in enumerate(data["layers"]):
        assert layer["fields"] == ["c", "h", "i", "f", "g", "o"] and layer["units"] == 5
        assert layer["gates"] == ["i", "f", "o"] and layer["dead"] == report.dead[n]
        left = unpacked(layer["saturation"]["f"][0], "u1") / 255
        np.testing.assert_allclose(left, report.saturated[n]["f"].left, atol=1 / 255)
        norm = unpacked(layer["norms"]["c"], "<f4")
        np.testing.assert_allclose(norm, report.norms[n]["c"], rtol=1e-6)
        median = np.median(report.reach.layers[n]["h"], axis=1)
        np.testing.assert_allclose(data["reach"]["layers"][n]["h"][1], median, rtol=1e-3)
    for feature in data["features"]:
        y_T, name = report.features[feature["name"]], feature["name"]
        if feature["where"] is not None:
            bits = np.unpackbits(unpacked(feature["where"], "u1"), bitorder="little")[:T]
            assert (bits == y_T).all(), name
        assert [each[:3] for each in feature["found"]] == [
            [each.layer, each.unit, each.field] for each in report.found[name]
        ]
    assert any(feature["found"] for feature in data["features"])


def test_a_page_keeps_within_its_size_and_says_what_it_leaves_out(report, monkeypatch):
    whole = len(page(report, "", {}))
    monkeypatch.setattr(pages, "MOST_BYTES", whole - 5000)
    smaller = page(report, "", {})
    assert whole - 10_000 < len(smaller) < whole - 5000
    traces = data_in(smaller)["traces"]
    shown = {(layer, unit) for layer, unit, *_ in traces}
    assert {field for *_, field, _, _ in traces} == {"c", "h", "i", "f", "g", "o"}
    assert all([layer, unit, "c"] in [each[:3] for each in traces] for layer, unit in shown)


def test_any_text_is_only_text(report):
    html = page(report, HOSTILE, {HOSTILE: HOSTILE})
    plain = page(report_of("abc"), "", {})
    for piece in ("<script", "</script", "<!--", "<b>"):
        assert html.count(piece) == plain.count(piece), piece
    assert html.count("\0") == html.count("\x1b") == html.count("\u2028") == 0
    assert data_in(html)["title"] == HOSTILE and data_in(html)["facts"] == [[HOSTILE, HOSTILE]]
    assert script_json(HOSTILE).isascii()
    assert re.findall(r"(?:https?:)?//\w[^\s\"']*", html.partition('id="data"')[0]) == []
    assert "default-src 'none'" in html


@pytest.mark.parametrize(
    "text, options",
    [
        ("ab", {}),
        ("aaaa", {"hidden_size": 1, "num_layers": 1}),
        ("abcab" * 5, {"cell": "memory_blocks", "hidden_size": 4, "block_size": 2}),
        ("abcab" * 5, {"cell": "elman"}),
        ("abcab" * 5, {"cell": "mogrifier"}),
    ],
)
def test_short_texts_and_other_cells_have_a_page(text, options):
    report = report_of(text, **options)
    data = data_in(page(report, "", {}))
    for n, layer in enumerate(report.layers):
        shown = {field for number, _, field, _, _ in data["traces"] if number == n}
        assert shown == {*layer.fields}
    assert len(archive(report))


def test_eight_bits_are_off_by_half_a_level(rng):
    a_T = rng.normal(size=1000)
    levels_T, low, high = quantized(a_T)
    assert levels_T.min() == 0 and levels_T.max() == 255
    assert np.max(np.abs(low + levels_T / 255 * (high - low) - a_T)) < (high - low) / 500
    assert quantized(np.ones(3))[0].tolist() == [0, 0, 0]
    assert quantized(np.array([np.nan, np.inf, 1.0]))[0].tolist() == [0, 0, 255]


def test_symbols_are_shown_as_what_they_are():
    assert symbols_of(Bytes())[65] == "A" and symbols_of(Bytes())[255] == "\\xff"
    words = symbols_of(Words(("<unk>", "\n", "be")))
    assert words == ["<unk> ", "\n", "be "]


def test_the_archive_holds_all_of_it(report):
    with np.load(io.BytesIO(archive(report)), allow_pickle=False) as arrays:
        text = "".join(arrays["symbols"][arrays["ids"]])
        assert text.startswith(HOSTILE.replace("\0", "␀"))
        for n, layer in enumerate(report.layers):
            for name, a_TxN in layer.fields.items():
                assert (arrays[f"layer{n}.{name}"] == a_TxN).all()
            assert (arrays[f"layer{n}.left.i"] == report.saturated[n]["i"].left).all()
            assert (arrays[f"layer{n}.reach.c"] == report.reach.layers[n]["c"]).all()
        best = report.found["a vowel"][0]
        row = arrays["found.feature"].tolist().index("a vowel")
        assert arrays["found.unit"][row] == best.unit and arrays["found.scored"][row] == best.scored


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run in it."""
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "text").write_bytes(TEXT)
    with process_in(folder):
        assert call(*line_of(TRAIN)).code == 0
        yield folder


INSPECT = line_of(EVALUATE | {"mode": "inspect"})


@pytest.mark.parametrize(
    "more, shown",
    [
        ([], TEXT.decode()[-41:]),
        (["--text=other"], "to be\n"),
        (["--prompt=to be", "--length=7", "--top_k=1"], "to be"),
    ],
)
def test_the_command_writes_both(folder, more, shown):
    (folder / "other").write_text("to be\n")
    done = call(*INSPECT, *more)
    assert done.code == 0, done.stderr
    assert "feature" in done.stdout and "inspection.html: 0." in done.stderr
    data = data_in((folder / "run" / "inspection.html").read_text())
    text = "".join(data["symbols"][n] for n in unpacked(data["ids"], "<u4"))
    assert text.startswith(shown) or text == shown
    assert len(text) == (12 if "--length=7" in more else len(shown)) and data["title"] == "run"
    with np.load(folder / "run" / "inspection.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].shape == (len(text),)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--length=7"], "--length means nothing to --mode=inspect without --prompt"),
        (["--text=text", "--prompt=to"], "--prompt means nothing beside --text"),
        (["--prompt=to", "--config.data.path=text"], "data.path means nothing beside --prompt"),
        (["--prompt=€"], "the character '€' is not in the model's alphabet"),
        (["--prompt="], "prompt"),
        (["--text=nowhere"], "cannot read --text='nowhere'"),
        (["--split=test"], "--split means nothing to --mode=inspect"),
    ],
)
def test_a_mistake_is_one_line(folder, more, message):
    done = call(*INSPECT, *more)
    assert done.code == 2 and is_one_line(done.stderr) and message in done.stderr, done.stderr
