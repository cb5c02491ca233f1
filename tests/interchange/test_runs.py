"""Weights out of a run's folder and into a new one; and what is refused, in one line."""

import io
import json
import pickle
import sys
import zipfile

import jax
import numpy as np
import pytest

import lstm_jax
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.interchange.formats import NAMES, from_tensors, load, save, to_tensors
from lstm_jax.interchange.names import write
from lstm_jax.interchange.net import net_of
from lstm_jax.interchange.runs import Imported, export_run, import_run, write_run
from lstm_jax.interchange.safetensors import read_tensors, write_tensors
from lstm_jax.model import Interface, init_model, named_leaves
from lstm_jax.run.description import Description
from lstm_jax.tasks import TASKS
from tests.cli import EVALUATE, SAMPLE, TEXT, call, line_of, process_in

safetensors = pytest.importorskip("safetensors.numpy")


SMALL = {
    **{"data.path": "text", "model.hidden_size": 4, "train.batch_size": 2, "train.steps": 1},
    **{"train.sequence_length": 4, "train.sample_length": 4, "train.gradient": "autodiff"},
    **{"evaluate.window_length": 8, "evaluate.lanes": 4, "evaluate.warmup": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small runs of three cells, which have done no step, and their text."""
    path = tmp_path_factory.mktemp("interchange")
    (path / "text").write_bytes(TEXT)
    with process_in(path):
        for cell, more in (
            ("lstm", {"model.embedding_size": 3, "model.num_layers": 2}),
            ("gru", {}),
            ("mogrifier", {}),
        ):
            config = Config().replace(SMALL | {"model.cell": cell} | more)
            task = TASKS["text"].of(config)
            params = init_model(jax.random.key(1), config.model, task.interface)
            write_run(path / cell, Imported(params, Description.of(config, task)))
    return path


def leaves(workdir):
    return leaves_of(lstm_jax.load_model(workdir)[0].eval_params)


def leaves_of(params):
    return {name: np.asarray(a).tobytes() for name, a in named_leaves(params).items()}


@pytest.mark.parametrize(
    "cell, name", [("lstm", "torch"), ("gru", "torch"), ("lstm", "safetensors")]
)
def test_an_imported_run_is_the_exported_one(folder, tmp_path, cell, name):
    """Scored, sampled, and trained on."""
    with process_in(folder):
        file, new = tmp_path / "weights.safetensors", tmp_path / "new"
        done = call("--mode=export", f"--workdir={cell}", f"--format={name}", f"--to={file}")
        assert done.code == 0 and f"weights.safetensors, for {name}: " in done.stderr
        done = call("--mode=import", f"--from={file}", f"--workdir={new}")
        assert done.code == 0 and f"{cell}, layers of 4" in done.stderr
        assert leaves(new) == leaves(cell)
        if (cell, name) != ("lstm", "torch"):  # the others' weights are as much the same
            return
        for flags in (EVALUATE, SAMPLE):
            wanted, found = (call(*line_of(flags | {"workdir": of})) for of in (cell, new))
            assert found.code == 0 and found.stdout == wanted.stdout
        more, steps = tmp_path / "more", "--config.train.steps=2"
        assert call("--mode=import", f"--from={file}", f"--workdir={more}", steps).code == 0
        assert call(f"--workdir={more}").code == 0
        assert leaves(more) != leaves(cell)


def test_a_state_dict_of_anybodys_needs_a_text_or_an_alphabet(folder, tmp_path):
    """Its modules have names of their own, and its characters an order of their own."""
    model = lstm_jax.load_model(folder / "lstm")
    params, description = model[0].eval_params, model[1]
    chars = description.identity["alphabet"]
    order = np.random.default_rng(0).permutation(len(chars))
    tensors = write(NAMES["torch"], net_of(params))
    for name in ("embedding.weight", "readout.weight", "readout.bias"):
        tensors[name] = tensors[name][order]
    for old, new in (("embedding", "encoder"), ("readout", "decoder"), ("lstm", "model.rnn")):
        tensors = {name.replace(f"{old}.", f"{new}."): a for name, a in tensors.items()}
    file, new = tmp_path / "a.safetensors", tmp_path / "new"
    safetensors.save_file(tensors, file)
    with pytest.raises(
        UserError, match=r"a\.safetensors cannot be imported: it says nothing of its"
    ):
        import_run(file, new)
    safetensors.save_file(tensors, file, metadata={"alphabet": "".join(chars[n] for n in order)})
    small = {name: value for name, value in SMALL.items() if not name.startswith("model.")}
    small |= {"data.path": str(folder / "text")}
    for n, changes in enumerate(({}, small)):
        import_run(file, tmp_path / f"new{n}", changes=changes)
        assert leaves(tmp_path / f"new{n}") == leaves(folder / "lstm")
    sampled = [
        lstm_jax.sample_text(*lstm_jax.load_model(at), "to be", 20)
        for at in (tmp_path / "new0", folder / "lstm")
    ]
    assert sampled[0] == sampled[1]
    with pytest.raises(UserError, match=r"model\.hidden_size is what the file says"):
        import_run(file, new, changes={"model.hidden_size": 4})
    other = tmp_path / "other"
    other.write_bytes(TEXT.replace(b"q", b"z"))
    with pytest.raises(UserError, match="its symbols are others than those of the data"):
        import_run(file, new, changes=small | {"data.path": str(other)})


def without(name):
    return lambda tensors: {key: a for key, a in tensors.items() if key != name}


def with_(name, shape):
    return lambda tensors: tensors | {name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    "change, message",
    [
        (without("lstm.bias_hh_l1"), r"lstm.bias_hh_l1 is missing: a tensor of 16 is wanted"),
        (with_("lstm.weight_hh_l1", (16, 5)), r"lstm.weight_hh_l1 is 16x5 and is to be 20x5 \(an"),
        (with_("lstm.weight_ih_l1", (16, 5)), r"lstm.weight_ih_l1 is 16x5 and is to be 16x4$"),
        (with_("lstm.bias_ih_l0", (16, 1)), r"lstm.bias_ih_l0 is 16x1 and is to be 16$"),
        (with_("readout.weight", (9, 5)), r"readout.weight is 9x5 and is to be \?x4$"),
        (with_("lstm.weight_ih_l3", (16, 4)), r"lstm.weight_ih_l3 \(16x4\) is in the file and in"),
        (with_("lstm.weight_ih_l0_reverse", (16, 4)), r"l0_reverse reads its sequence backwards"),
        (with_("lstm.weight_hr_l0", (2, 4)), r"lstm.weight_hr_l0 is of a proj_size"),
        (with_("gru.weight_ih_l0", (12, 4)), r"layers in several modules \(gru\., lstm\.\)"),
        (without("readout.bias"), r"readout.bias is missing: a tensor of \d+ is wanted"),
        (
            lambda t: {k: a.astype(int) for k, a in t.items()},
            r" is of int64, not of floating point",
        ),
        (
            lambda tensors: {"a": np.zeros(1)},
            r"nothing tells whose names its tensors have \(a, …\)",
        ),
        (lambda tensors: {}, r"nothing tells whose names"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, tmp_path, change, message):
    state, _ = lstm_jax.load_model(folder / "lstm")
    file = tmp_path / "a.safetensors"
    safetensors.save_file(change(write(NAMES["torch"], net_of(state.eval_params))), file)
    with pytest.raises(UserError, match=message) as error:
        import_run(file, tmp_path / "new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_a_pickle_is_never_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "written"), "w")

    file = tmp_path / "model.pt"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("model/data.pkl", pickle.dumps(Evil()))
    for data in (pickle.dumps(Evil(), 2), pickle.dumps(Evil(), 5), archive.getvalue()):
        file.write_bytes(data)
        with pytest.raises(UserError, match=r"it is a pickle, as torch\.save writes it"):
            import_run(file, tmp_path / "new")
    for data in (b"", b"\0" * 20, b"\x7f" * 100):
        file.write_bytes(data)
        with pytest.raises(UserError, match="it is no file of safetensors"):
            import_run(file, tmp_path / "new")
    assert not (tmp_path / "written").exists()


def test_what_only_this_package_has_goes_by_its_own_names_alone(folder, tmp_path):
    with process_in(folder):
        with pytest.raises(UserError, match=r"model\.cell=mogrifier is this package's own"):
            export_run(folder / "mogrifier", "torch", tmp_path / "a.safetensors")
        export_run(folder / "mogrifier", "safetensors", tmp_path / "a.safetensors")
        import_run(tmp_path / "a.safetensors", tmp_path / "new")
        assert leaves(tmp_path / "new") == leaves("mogrifier")
        with pytest.raises(UserError, match="new holds a run already"):
            import_run(tmp_path / "a.safetensors", tmp_path / "new")


def test_the_words_of_a_file_are_read_with_suspicion(folder, tmp_path):
    file = tmp_path / "a.safetensors"
    export_run(folder / "gru", "torch", file)
    tensors, said = read_tensors(file)
    safetensors.save_file(tensors, file, metadata=said | {"format": "pt"})  # as others write
    assert leaves_of(load(file).params) == leaves(folder / "gru")
    assert said["alphabet"] == "".join(sorted({*TEXT.decode()}))
    assert json.loads(said["config"])["model.cell"] == "gru"
    for key, value, message in (
        ("config", "{", "what the file says of its run cannot be read"),
        ("config", "[]", "what the file says of its run cannot be read"),
        ("run", "1", "what the file says of its run cannot be read"),
        ("alphabet", "ab", "the run is of no text of 2 symbols"),
    ):
        safetensors.save_file(tensors, file, metadata=said | {key: value})
        with pytest.raises(UserError, match=message):
            import_run(file, tmp_path / "new")


def test_float64_is_rounded_with_a_word(folder, tmp_path, capsys):
    state, _ = lstm_jax.load_model(folder / "gru")
    tensors = write(NAMES["torch"], net_of(state.eval_params))
    file, chars = tmp_path / "a.safetensors", "".join(sorted({*TEXT.decode()}))
    for digits, said in ((0, ""), (1e-12, "weights in float64 are rounded to float32")):
        wide = {name: a.astype(np.float64) + digits for name, a in tensors.items()}
        safetensors.save_file(wide, file, metadata={"alphabet": chars})
        import_run(file, tmp_path / f"new{digits}")
        assert said in capsys.readouterr().err


def test_a_whole_model_of_pytorchs_own(x64):
    """Embedding, two layers, readout: its logits, by a state_dict that the user loads."""
    torch = pytest.importorskip("torch")
    L, V, E, H = 2, 7, 3, 5
    embedding, lstm = torch.nn.Embedding(V, E), torch.nn.LSTM(E, H, L)
    readout = torch.nn.Linear(H, V)
    model = torch.nn.ModuleDict({"emb": embedding, "rnn": lstm, "out": readout}).double()
    ids = np.random.default_rng(0).integers(V, size=(6, 4))
    wanted = readout(lstm(embedding(torch.tensor(ids)))[0]).detach().numpy()
    params = from_tensors("torch", model.state_dict())
    assert {name.partition(".")[2] for name in to_tensors("torch", params)} == {
        name.partition(".")[2] for name in model.state_dict()
    }
    found, _ = lstm_jax.apply(params, lstm_jax.init_carry(params, 4), ids)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


def test_a_tied_readout_and_layers_of_several_sizes_come_back(tmp_path):
    config = Config().replace(
        {"model.embedding_size": 3, "model.hidden_sizes": (4, 3), "model.readout": "tied"}
    )
    interface = Interface(7, 7)
    params = init_model(jax.random.key(0), config.model, interface)
    described = Description(config, {"alphabet": "abcdefg"}, interface, "float32")
    for name in ("torch", "keras", "flax_nnx", "safetensors"):
        file = tmp_path / f"{name}.safetensors"
        save(params, described, name, file)
        loaded = load(file)
        assert loaded.params.readout.W is None
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
        tensors, said = read_tensors(file)
        if name != "safetensors":  # whose names say that there is none
            readout = next(key for key, a in tensors.items() if a.size == 21 and "emb" not in key)
            tensors[readout] = tensors[readout] + 1
            safetensors.save_file(tensors, file, metadata=said)
            with pytest.raises(UserError, match=r"no longer its embedding transposed"):
                load(file)


def test_what_does_not_lie_in_order_is_written_as_it_reads(tmp_path):
    """Of which safetensors 0.8 by itself writes the memory as it lies."""
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {"turned": a.T, "every other": a[:, ::2], "spread": np.broadcast_to(a[:1], (4, 3))}
    write_tensors(tmp_path / "a", tensors, {})
    found, said = read_tensors(tmp_path / "a")
    assert said == {}
    jax.tree.map(np.testing.assert_array_equal, found, tensors)


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match="this needs safetensors, which is not installed: pip inst"):
        write_tensors(tmp_path / "a", {}, {})
