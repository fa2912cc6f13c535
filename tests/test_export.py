"""What onnxruntime computes from our files is what the layers compute, whole and step by step."""

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import unrolled
from tolerance import assert_same
from unrolled import export
from unrolled.errors import ExportError
from unrolled.tasks.language_model.config import Config
from unrolled.tasks.language_model.model import LanguageModel

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

T, B, WIDTH, H = 5, 3, 4, 7
CELLS = {
    "rnn": (unrolled.RNN, {}),
    "relu": (unrolled.RNN, {"nonlinearity": "relu"}),
    "lstm": (unrolled.LSTM, {}),
    "gru": (unrolled.GRU, {}),
}
VARIANTS = [
    {},
    {"bidirectional": True},
    {"num_layers": 3, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


def make(cell: str, variant: dict) -> nn.Module:
    kind, extra = CELLS[cell]
    return kind(WIDTH, H, **extra, **variant)


def inputs_of(layer, batch: int = B, steps: int = T) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    x = torch.randn(*((batch, steps) if layer.batch_first else (steps, batch)), WIDTH)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    return x, tuple(torch.randn(count, batch, H) for _ in range(2 if layer.mode == "LSTM" else 1))


def run_ours(layer, x, state, **options) -> list[torch.Tensor]:
    with torch.no_grad():
        output, final = layer(x, state if len(state) == 2 else state[0], **options)
    return [output, *(final if isinstance(final, tuple) else (final,))]


def session(path: Path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_file(runtime, x, state, lengths=None) -> list[torch.Tensor]:
    feed = {"input": x, **dict(zip(["h_0", "c_0"], state, strict=False))}
    feed |= {} if lengths is None else {"lengths": lengths.to(torch.int32)}
    names = ["output", "h_n", "c_n"][: 1 + len(state)]
    return [torch.from_numpy(value) for value in runtime.run(names, {name: t.numpy() for name, t in feed.items()})]


def assert_all_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
class TestLayers:
    def test_whole_sequences_of_any_size(self, cell: str, variant: dict, tmp_path: Path) -> None:
        layer = make(cell, variant)
        runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx"))
        for batch, steps in [(B, T), (1, 1), (6, 2)]:
            x, state = inputs_of(layer, batch, steps)
            assert_all_same(run_file(runtime, x, state), run_ours(layer, x, state))

    def test_lengths_with_zero(self, cell: str, variant: dict, tmp_path: Path) -> None:
        layer = make(cell, variant)
        runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx", lengths=True))
        for lengths in ([2, 0, 5], [0, 0, 0], [5, 5, 5], [1, 4, 3]):
            x, state = inputs_of(layer)
            for b, length in enumerate(lengths):
                (x if layer.batch_first else x.transpose(0, 1))[b, length:] = float("nan")
            lengths = torch.tensor(lengths)
            assert_all_same(run_file(runtime, x, state, lengths), run_ours(layer, x, state, lengths=lengths))

    def test_steps_give_the_sequence(self, cell: str, variant: dict, tmp_path: Path) -> None:
        layer = make(cell, {**variant, "bidirectional": False})
        runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx"))
        x, state = inputs_of(layer)
        expected, axis, outputs = run_ours(layer, x, state), 1 if layer.batch_first else 0, []
        for t in range(T):
            output, *state = run_file(runtime, x.narrow(axis, t, 1), state)
            outputs.append(output)
        assert_all_same([torch.cat(outputs, dim=axis), *state], expected)

    def test_torch_layers_too(self, cell: str, variant: dict, tmp_path: Path) -> None:
        layer = make(cell, variant)
        unrolled.restore(layer)
        assert isinstance(layer, nn.RNNBase)
        x, state = inputs_of(layer)
        runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx"))
        assert_all_same(run_file(runtime, x, state), run_ours(layer, x, state))


def test_only_standard_operators_and_named_ends(tmp_path: Path) -> None:
    layer = unrolled.LSTM(WIDTH, H, num_layers=2, bidirectional=True)
    model = onnx.load(unrolled.export_onnx(layer, str(tmp_path / "layer.onnx"), lengths=True))
    assert [node.op_type for node in model.graph.node].count("LSTM") == 2
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.input] == ["input", "h_0", "c_0", "lengths"]
    assert [value.name for value in model.graph.output] == ["output", "h_n", "c_n"]
    assert axes_of(model) == ["time", "batch", WIDTH]
    layer = unrolled.GRU(WIDTH, H, batch_first=True)
    assert axes_of(onnx.load(unrolled.export_onnx(layer, str(tmp_path / "layer.onnx")))) == ["batch", "time", WIDTH]


def axes_of(model) -> list:
    return [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


def test_dropout_and_training_mode_are_not_in_the_file(tmp_path: Path) -> None:
    layer = unrolled.GRU(WIDTH, H, num_layers=2, dropout=0.9).train()
    runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx"))
    x, state = inputs_of(layer)
    assert_all_same(run_file(runtime, x, state), run_ours(layer.eval(), x, state))


def test_weights_computed_from_others_are_written_as_they_are(tmp_path: Path) -> None:
    layer = parametrizations.weight_norm(nn.LSTM(WIDTH, H), "weight_hh_l0")
    x, state = inputs_of(layer)
    runtime = session(unrolled.export_onnx(layer, tmp_path / "layer.onnx"))
    assert_all_same(run_file(runtime, x, state), run_ours(layer, x, state))


@pytest.mark.parametrize("settings", [{"input": "embedding", "cell": "lstm"}, {"input": "one-hot", "cell": "gru"}], ids=str)
def test_a_language_model_is_built_from_the_same_parts(settings: dict, tmp_path: Path) -> None:
    vocabulary = 11
    model = LanguageModel(Config(hidden_size=H, num_layers=2, **settings), vocabulary).eval()
    graph = export.Graph("language_model")
    tokens = graph.input("tokens", torch.int64, ["batch", "time"])
    state = export.state_inputs(graph, model.layers)
    x = export.embedding(graph, model.encoder, tokens) if model.encoder else export.one_hot(graph, tokens, vocabulary)
    output, state = export.recurrent(graph, model.layers, x, state)
    graph.output("logits", export.linear(graph, model.decoder, output), torch.float32, ["batch", "time", vocabulary])
    export.state_outputs(graph, model.layers, state)
    runtime = session(graph.save(tmp_path / "model.onnx"))

    text = torch.randint(vocabulary, (B, T))
    _, state = inputs_of(model.layers)
    expected = run_ours(model, text, state)
    names, feed = [out.name for out in runtime.get_outputs()], {"tokens": text}
    assert names[0] == "logits"
    feed |= dict(zip(["h_0", "c_0"], state, strict=False))
    feed = {name: value.numpy() for name, value in feed.items()}
    assert_all_same([torch.from_numpy(value) for value in runtime.run(names, feed)], expected)
    steps = []
    for t in range(T):
        logits, *last = runtime.run(names, {**feed, "tokens": text[:, t : t + 1].numpy()})
        feed |= dict(zip(["h_0", "c_0"], last, strict=False))
        steps.append(logits)
    assert_same(torch.from_numpy(np.concatenate(steps, axis=1)), expected[0])


def test_half_and_double_are_written_as_they_are(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.float64):
        path = unrolled.export_onnx(unrolled.GRU(WIDTH, H, dtype=dtype), tmp_path / "layer.onnx")
        kind = onnx.load(path).graph.input[0].type.tensor_type.elem_type
        assert onnx.helper.tensor_dtype_to_np_dtype(kind) == torch.empty(0, dtype=dtype).numpy().dtype


class TestErrors:
    def refused(self, layer, text: str, path: Path) -> None:
        with pytest.raises(ExportError, match=text):
            unrolled.export_onnx(layer, path / "layer.onnx")
        assert list(path.iterdir()) == []

    def test_projection(self, tmp_path: Path) -> None:
        self.refused(unrolled.LSTM(WIDTH, H, proj_size=3), "proj_size=3 .*ONNX's LSTM has no projection", tmp_path)

    def test_another_module(self, tmp_path: Path) -> None:
        self.refused(nn.Linear(2, 3), "an RNN, LSTM or GRU of unrolled or torch.nn, got a Linear", tmp_path)

    def test_bfloat16(self, tmp_path: Path) -> None:
        self.refused(unrolled.GRU(WIDTH, H).bfloat16(), r"torch.bfloat16 .*Export layer.float\(\)", tmp_path)

    def test_forward_of_its_own(self, tmp_path: Path) -> None:
        class Twice(nn.GRU):
            def forward(self, x):
                return super().forward(2 * x)

        self.refused(Twice(WIDTH, H), "Twice has a forward of its own", tmp_path)

    def test_an_option_that_onnx_lacks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = unrolled.GRU.__init__

        def with_option(self, *arguments, zoneout: float = 0.0, **options) -> None:
            plain(self, *arguments, **options)
            self.zoneout = zoneout

        monkeypatch.setattr(unrolled.GRU, "__init__", with_option)
        layer = unrolled.GRU(WIDTH, H, zoneout=0.25)
        self.refused(layer, "zoneout=0.25 is not in torch.nn.GRU, nor in ONNX's", tmp_path)

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"gone.layer\.onnx: could not write [\d,]+ bytes, No such file or directory"):
            unrolled.export_onnx(unrolled.GRU(WIDTH, H), tmp_path / "gone" / "layer.onnx")

    def test_a_device_is_not_replaced(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        os.symlink("/dev/null", tmp_path / "device")
        for name in ("pipe", "device", "."):
            with pytest.raises(ExportError, match="expected the name of a file, got a folder, a pipe or a device"):
                unrolled.export_onnx(unrolled.GRU(3, 4), tmp_path / name)

    def test_a_failed_write_keeps_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = unrolled.export_onnx(unrolled.GRU(WIDTH, H), tmp_path / "layer.onnx")
        before = path.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(ExportError, match="the disk is full"):
            unrolled.export_onnx(unrolled.GRU(WIDTH, H), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        there = builtins.__import__

        def without(name: str, *arguments, **options):
            if name.startswith("onnx"):
                raise ImportError(name)
            return there(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without)
        self.refused(unrolled.GRU(WIDTH, H), r"pip install 'unrolled\[onnx\]'", tmp_path)
