"""On a GPU the layers give what they give on the CPU, whichever way computes them. Skipped where there is none."""

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, assert_all_same, flat, initial_state, twins
from tests.tolerance import assert_same
from torch import nn

import unrolled
from unrolled import bptt, tasks
from unrolled.kernels import cudnn_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CUDA = torch.device("cuda")
MASKS = {
    "none": {},
    "lengths": {"lengths": torch.tensor([5, 0, 2])},
    "resets": {"resets": torch.rand(T, B, generator=torch.Generator().manual_seed(1)) < 0.4},
}
MASKS["both"] = MASKS["lengths"] | MASKS["resets"]
OPTIONS = [
    {"learned_state": True},
    {"layer_norm": True},
    {"zoneout": 0.2},
    {"recurrent_dropout": 0.3},
    {"save": "outputs"},
]


@pytest.fixture(autouse=True)
def _full_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN rounds the factors of fp32 products to TF32's 10 bits unless it is told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def there(value):
    if isinstance(value, tuple):
        return tuple(map(there, value))
    return value.detach().to(CUDA).requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value


def laid_out(layer, masks: dict) -> dict:
    turned = layer.batch_first and "resets" in masks
    return masks | {"resets": masks["resets"].t()} if turned else masks


def compare(layer, x: torch.Tensor, hx=None, **how) -> None:
    """Answers, and gradients of x, the initial state and every parameter."""
    leaves = [x.requires_grad_(), *([] if hx is None else [part.requires_grad_() for part in flat((x, hx))[1:]])]
    twin, x_there, hx_there = copy.deepcopy(layer).to(CUDA), there(x), there(hx)
    leaves_there = [x_there, *([] if hx is None else flat((x_there, hx_there))[1:])]
    want, got = flat(layer(x, hx, **how)), flat(twin(x_there, hx_there, **{name: there(v) for name, v in how.items()}))
    assert all(part.is_cuda for part in got)
    assert_all_same([part.cpu() for part in got], want)
    scale = [torch.randn_like(part) for part in want]
    wanted = torch.autograd.grad(want, [*leaves, *layer.parameters()], scale)
    gotten = torch.autograd.grad(got, [*leaves_there, *twin.parameters()], [s.to(CUDA) for s in scale])
    assert_all_same([part.cpu() for part in gotten], wanted)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_gradients(kind: str, variant: dict, masks: str) -> None:
    layer, _ = twins(kind, **variant)
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
    for hx in (None, initial_state(layer)):
        compare(layer, x.clone(), hx, **laid_out(layer, MASKS[masks]))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_options_in_evaluation(kind: type, options: dict, masks: str) -> None:
    layer = kind(I, H, num_layers=2, bidirectional=True, dtype=torch.float64, **options).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    compare(layer, torch.randn(T, B, I, dtype=torch.float64), **MASKS[masks])


@pytest.mark.parametrize("kind", KINDS)
def test_looks_inside(kind: str) -> None:
    layer, _ = twins(kind, num_layers=2, bidirectional=True)
    twin, x = copy.deepcopy(layer).to(CUDA), torch.randn(T, B, I, dtype=torch.float64)
    for masks in MASKS.values():
        moved = {name: value.to(CUDA) for name, value in masks.items()}
        for got, want in zip(twin.states(x.to(CUDA), **moved), layer.states(x, **masks), strict=True):
            assert_same(got.h.cpu(), want.h)
            assert (got.c is None) == (want.c is None)
            if got.c is not None and want.c is not None:
                assert_same(got.c.cpu(), want.c)
        if kind == "projected":
            continue
        norms, norms_there = torch.zeros(4, 2, T, B), torch.zeros(4, 2, T, B, device=CUDA)
        layer(x, **masks, gradient_norms=norms)[0].sum().backward()
        twin(x.to(CUDA), **moved, gradient_norms=norms_there)[0].sum().backward()
        assert_same(norms_there.cpu(), norms)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_what_the_sequence_gives(kind: str) -> None:
    layer, _ = twins(kind, num_layers=2)
    layer, x, state = layer.to(CUDA), torch.randn(T, B, I, dtype=torch.float64, device=CUDA), None
    whole, last = layer(x)
    for t in range(T):
        h_t, state = layer.step(x[t], state)
        assert_same(h_t, whole[t])
    assert_all_same(flat((h_t, state))[1:], flat((h_t, last))[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_token_ids(kind: str) -> None:
    layer, _ = twins(kind)
    twin, ids = copy.deepcopy(layer).to(CUDA), torch.randint(I, (T, B))
    for table in (None, torch.randn(9, I, dtype=torch.float64), torch.randn(40, I, dtype=torch.float64)):
        for masks in MASKS.values():
            got = twin(ids.to(CUDA), embedding=there(table), **{name: value.to(CUDA) for name, value in masks.items()})
            assert_all_same([part.cpu() for part in flat(got)], flat(layer(ids, embedding=table, **masks)))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences(kind: str) -> None:
    ours, theirs = twins(kind, num_layers=2, bidirectional=True)
    pieces = [torch.randn(length, I, dtype=torch.float64, device=CUDA) for length in (2, 5, 3)]
    packed = nn.utils.rnn.pack_sequence(pieces, enforce_sorted=False)
    got, want = ours.to(CUDA)(packed), theirs.to(CUDA)(packed)
    assert_same(got[0].data, want[0].data)
    assert_all_same(flat((got[0].data, got[1]))[1:], flat((want[0].data, want[1]))[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_other_precisions(kind: str, dtype: torch.dtype, masks: str) -> None:
    exact, _ = twins(kind, num_layers=2, bidirectional=True)
    layer, x = copy.deepcopy(exact).to(CUDA, dtype), torch.randn(T, B, I)
    moved = {name: value.to(CUDA) for name, value in MASKS[masks].items()}
    got = flat(layer(x.to(CUDA, dtype), **moved))
    assert all(part.dtype == dtype for part in got)
    dtype = torch.bfloat16 if dtype == torch.float16 else dtype  # the table has no finer line for it
    for one, other in zip(got, flat(exact(x.double(), **MASKS[masks])), strict=True):
        assert_same(one.to(dtype).cpu(), other.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str, masks: str, dtype: torch.dtype) -> None:
    exact, _ = twins(kind, num_layers=2)
    layer, x = copy.deepcopy(exact).to(CUDA, torch.float32), torch.randn(T, B, I)
    with torch.autocast("cuda", dtype):
        output = layer(x.to(CUDA), **{name: value.to(CUDA) for name, value in MASKS[masks].items()})[0]
    assert output.dtype == dtype
    output.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())
    assert_same(output.to(torch.bfloat16).cpu(), exact(x.double(), **MASKS[masks])[0].to(torch.bfloat16))


def test_padding_that_is_not_a_number_reaches_nothing() -> None:
    layer = unrolled.LSTM(I, H, device=CUDA)
    x = torch.randn(T, B, I, device=CUDA)
    x[2:, 1] = torch.nan
    x.requires_grad_()
    output, _ = layer(x, lengths=torch.tensor([5, 2, 4]))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in (x, *layer.parameters()))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind: str, masks: str) -> None:
    layer, _ = twins(kind)
    layer, x = layer.to(CUDA), torch.randn(T, B, I, dtype=torch.float64, device=CUDA)
    moved = {name: value.to(CUDA) for name, value in MASKS[masks].items()}
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_all_same(flat(compiled(x, **moved)), flat(layer(x, **moved)))
    got = torch.autograd.grad(compiled(x, **moved)[0].sum(), list(layer.parameters()))
    assert_all_same(got, torch.autograd.grad(layer(x, **moved)[0].sum(), list(layer.parameters())))


@pytest.mark.parametrize("kind", KINDS)
def test_exported(kind: str) -> None:
    layer, _ = twins(kind)
    layer, x = layer.to(CUDA), torch.randn(T, B, I, dtype=torch.float64, device=CUDA)
    program = torch.export.export(layer, (x,))
    assert_all_same(flat(program.module()(x)), flat(layer(x)))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_per_example(kind: str, masks: str) -> None:
    layer, _ = twins(kind)
    layer = layer.to(CUDA)
    weights = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(3, T, B, I, dtype=torch.float64, device=CUDA)
    moved = {name: value.to(CUDA) for name, value in MASKS[masks].items()}

    def loss(weights: dict, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, weights, (x,), moved)[0].square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for number, one in enumerate(x):
        alone = torch.autograd.grad(layer(one, **moved)[0].square().sum(), list(layer.parameters()))
        assert_all_same([gradient[number] for gradient in together.values()], alone)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind: str, bidirectional: bool, masks: str) -> None:
    layer, _ = twins(kind, num_layers=2, bidirectional=bidirectional)
    x = torch.randn(T, B, I, dtype=torch.float64)

    def second(layer, x: torch.Tensor, masks: dict) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(x, **masks)[0].square().sum(), x, create_graph=True)
        first.square().sum().backward()
        assert x.grad is not None
        return x.grad

    want = second(layer, x, MASKS[masks])
    moved = {name: value.to(CUDA) for name, value in MASKS[masks].items()}
    assert_same(second(copy.deepcopy(layer).to(CUDA), x.to(CUDA), moved).cpu(), want)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_is_freed_or_kept_as_asked(kind: str) -> None:
    layer, _ = twins(kind, torch.float32)
    layer, x = layer.to(CUDA), torch.randn(T, B, I, device=CUDA)
    for masks in ({}, {"lengths": torch.tensor([5, 0, 2])}):
        loss, weights = layer(x, **masks)[0].sum(), list(layer.parameters())
        first = torch.autograd.grad(loss, weights, retain_graph=True)
        assert_all_same(torch.autograd.grad(loss, weights), first)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            torch.autograd.grad(loss, weights)


def test_a_seed_gives_the_same_bits_again() -> None:
    looped = unrolled.LSTM(I, H, num_layers=2, dropout=0.5, recurrent_dropout=0.2, zoneout=0.1, device=CUDA)
    by_cudnn = unrolled.GRU(I, H, num_layers=2, dropout=0.5, device=CUDA)
    x, answers = torch.randn(T, B, I, device=CUDA), []
    for layer, _ in itertools.product((looped, by_cudnn), range(2)):
        torch.manual_seed(3)
        output = layer(x, **{name: value.to(CUDA) for name, value in MASKS["both"].items()})[0]
        answers.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    for one, again in (answers[:2], answers[2:]):
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_exact_bptt_is_full_bptt() -> None:
    layer = unrolled.LSTM(I, H, num_layers=2, dropout=0.3, dtype=torch.float64, device=CUDA)
    x = torch.randn(200, B, I, dtype=torch.float64, device=CUDA)
    bptt.exact(layer.eval(), x, loss=lambda outputs, steps: outputs.square().sum(), memory=100_000)
    want = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    assert_all_same([parameter.grad for parameter in layer.parameters()], want)


def test_weights_lie_as_cudnn_reads_them(recwarn: pytest.WarningsRecorder) -> None:
    """PyTorch would warn of copying them at every call."""
    made = unrolled.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3, device=CUDA)
    moved, half = unrolled.GRU(I, H).to(CUDA), unrolled.RNN(I, H, device=CUDA, dtype=torch.bfloat16)
    tied = unrolled.GRU(I, H, device=CUDA)
    tied.weight_ih_l0 = unrolled.GRU(I, H, device=CUDA).weight_ih_l0
    neighbours = unrolled.GRU(128, 128, device=CUDA)  # whose weights the allocator may have put side by side
    for layer in (made, moved, half, neighbours, unrolled.GRU(I, H, num_layers=2, bias=False, device=CUDA)):
        stack = cudnn_weights.Stack(layer.mode, layer.num_layers, layer.bidirectional)
        assert cudnn_weights._are_flat(stack, [weight for one in layer.all_weights for weight in one])
    with torch.no_grad():
        neighbours(torch.randn(T, B, 128, device=CUDA))
    for layer in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(moved)), half, copy.deepcopy(made).half(), tied):
        x = torch.randn(T, B, I, device=CUDA, dtype=next(layer.parameters()).dtype)
        for masks in MASKS.values():
            layer(x, **{name: value.to(CUDA) for name, value in masks.items()})[0].sum().backward()
        with torch.no_grad():
            layer(x)
        with torch.autocast("cuda", torch.bfloat16):
            layer(x)[0].sum().backward()
    assert [str(warning.message) for warning in recwarn if "contiguous" in str(warning.message)] == []
    assert layer.weight_ih_l0.grad is not None


def test_converted_models_stay_where_they_are() -> None:
    model = nn.Sequential(nn.LSTM(I, H, num_layers=2, bidirectional=True)).to(CUDA)
    x = torch.randn(T, B, I, device=CUDA)
    want = model(x)[0]
    unrolled.convert(model)
    assert isinstance(model[0], unrolled.LSTM)
    assert_same(model(x)[0], want)
    unrolled.restore(model)
    assert_same(model(x)[0], want)


class TestErrors:
    """One line that names what is where."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_layer_and_input_apart(self, kind: str) -> None:
        layer, _ = twins(kind, torch.float32)
        x = torch.randn(T, B, I)
        with pytest.raises((RuntimeError, ValueError), match=r"cuda:0.*cpu|cpu.*cuda:0"):
            copy.deepcopy(layer).to(CUDA)(x)
        with pytest.raises((RuntimeError, ValueError), match=r"cuda:0.*cpu|cpu.*cuda:0"):
            layer(x.to(CUDA))

    @pytest.mark.parametrize("kind", KINDS)
    def test_masks_elsewhere_or_out_of_range(self, kind: str) -> None:
        layer, _ = twins(kind, torch.float32)
        layer, x = layer.to(CUDA), torch.randn(T, B, I, device=CUDA)
        with pytest.raises(ValueError, match="resets expected on cuda:0, where the input is, got cpu"):
            layer(x, resets=torch.zeros(T, B, dtype=torch.bool))
        for device in ("cpu", "cuda"):
            with pytest.raises(ValueError, match="lengths expected values from 0 to T=5, got values from 2 to 6"):
                layer(x, lengths=torch.tensor([6, 2, 4], device=device))

    @pytest.mark.parametrize("kind", KINDS)
    def test_state_elsewhere(self, kind: str) -> None:
        layer, _ = twins(kind)
        x = torch.randn(T, B, I, dtype=torch.float64, device=CUDA)
        for masks in MASKS.values():
            with pytest.raises((RuntimeError, ValueError), match=r"cuda:0.*cpu|cpu.*cuda:0"):
                copy.deepcopy(layer).to(CUDA)(x, initial_state(layer), **there(masks))


class TestTraining:
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_whole_way(self, real_text: Path, tmp_path: Path, tiny: dict, command: Callable, precision: str) -> None:
        run = tmp_path / "run"
        how = {**tiny, "dropout": 0.2, "num_layers": 2, "precision": precision, "device": "cuda"}
        tasks.train("language-model", [str(real_text)], run=run, **how)
        assert json.loads((run / "config.json").read_text())["config"]["device"] == "cuda"
        code, out, _ = command("evaluate", run, real_text, "--json")
        assert code == 0
        assert json.loads(out)["bits_per_character"] < 8
        code, out, _ = command("sample", run, "--length", "50", "--seed", "1")
        assert (code, len(out) > 40) == (0, True)
