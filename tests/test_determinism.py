"""The contract of docs/determinism.md: one seed, one number of threads, one version, one machine: the same bits."""

from pathlib import Path

import pytest
import torch
from torch import nn

import unrolled
from unrolled import kernels, streaming, tasks
from unrolled.checkpoint import read_tensors

pytestmark = pytest.mark.skipif(not kernels.available(), reason="holds for torch's operators only as far as torch says")


@pytest.fixture(params=[1, 2], ids="threads={}".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "training.safetensors")[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_training_with_dropout_gives_the_same_bits(cell: str, precision: str, threads: int, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(Path(unrolled.__file__).read_text() * 4)
    how = {"cell": cell, "precision": precision, "hidden_size": 33, "num_layers": 2, "dropout": 0.3, "max_steps": 6}
    how |= {"batch_size": 5, "k1": 9, "sample_every": 0, "seed": 3}
    one, two = (
        weights(tasks.train("language-model", [str(tmp_path / "text.txt")], run=tmp_path / name, **how).folder)
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = weights(tasks.train("language-model", [str(tmp_path / "text.txt")], run=tmp_path / "o", **how | {"seed": 4}).folder)
    assert not all(torch.equal(one[name], other[name]) for name in one if name.startswith("model."))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_a_layer_gives_the_same_bits_forwards_and_backwards(cell: str, dropout: float, threads: int) -> None:
    def once() -> list[torch.Tensor]:
        torch.manual_seed(1)
        layer = getattr(unrolled, cell)(19, 70, num_layers=2, dropout=dropout, bidirectional=True)
        x = torch.randn(23, 17, 19, requires_grad=True)
        output, _ = layer(x, lengths=torch.arange(17) + 7, resets=torch.rand(23, 17) < 0.1)
        output.square().sum().backward()
        return [output.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]  # type: ignore[list-item]

    for one, two in zip(once(), once(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("precision", streaming.PRECISIONS)
@pytest.mark.parametrize(("mode", "layers", "table"), [("LSTM", 2, True), ("GRU", 1, True), ("RNN", 3, False)])
def test_a_seed_writes_the_same_text_on_any_number_of_threads(
    mode: str, layers: int, table: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling promises more: each hidden unit is computed by one thread, in one order, whoever it is."""
    monkeypatch.setattr("unrolled.streaming.packed_weights.TABLE_LIMIT", 2**26 if table else 0)
    torch.manual_seed(0)
    H = 517 if mode == "LSTM" else 900  # enough bytes for several threads to be used, in every precision
    recurrent, decoder = getattr(nn, mode)(21, H, layers), nn.Linear(H, 67)
    embedding = torch.randn(67, 21)
    before, texts, states = torch.get_num_threads(), [], []
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        streamer = streaming.Streamer(
            recurrent, embedding=embedding, decoder_weight=decoder.weight, decoder_bias=decoder.bias, precision=precision
        )
        text = streamer.generate(40, context=[3, 5, 8, 13], temperature=0.9, seed=7)
        texts.append(text + streamer.generate(30, temperature=0.9, top_k=9))
        states.append(streamer.state[0] if mode == "LSTM" else streamer.state)
    torch.set_num_threads(before)
    assert streamer.nbytes - 67 * 4 * H * 4 > 2 * 2**19  # or this test would be of one thread
    assert texts[0] == texts[1] == texts[2] == texts[3]
    assert len(set(texts[0])) > 5
    for state in states[1:]:
        assert torch.equal(state, states[0])
