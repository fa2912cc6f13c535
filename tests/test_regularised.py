"""The layers' options: against the cells, composed with everything else, and refused where they mean nothing."""

import copy
import pickle

import pytest
import torch
from tests.tolerance import assert_same
from torch import nn

import unrolled
from unrolled import cells
from unrolled.cells import Norm, Norms
from unrolled.errors import ExportError
from unrolled.recurrence import plan

T, B, I, H = 5, 3, 4, 7
KINDS = {"rnn": unrolled.RNN, "lstm": unrolled.LSTM, "gru": unrolled.GRU}
OPTIONS = {
    "layer_norm": {"layer_norm": True},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "learned_state": {"learned_state": True},
    "all": {"layer_norm": True, "recurrent_dropout": 0.4, "zoneout": 0.3, "learned_state": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def made(kind: str, **options):
    """A layer in float64 whose options' parameters are drawn too, so that they are seen."""
    layer = KINDS[kind](I, H, **options).double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith(("gain", "bias_c", "initial")):
                parameter.normal_()
    return layer


def flat(result) -> list[torch.Tensor]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]


def all_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


@every_kind
def test_layer_normalisation_is_the_cells_step_by_step(kind: str) -> None:
    layer, x = made(kind, layer_norm=True), torch.randn(T, B, I, dtype=torch.float64)
    w, _ = layer.layer_weights()[0]
    norm_c = Norm(layer.gain_c_l0, layer.bias_c_l0) if kind == "lstm" else None
    norms, h = Norms(layer.gain_ih_l0, layer.gain_hh_l0, norm_c), torch.zeros(B, H, dtype=torch.float64)
    c, steps = h, []
    for x_t in x:
        if kind == "lstm":
            h, c = cells.layer_norm_lstm_cell(x_t, h, c, w, norms)
        else:
            h = (cells.layer_norm_gru_cell if kind == "gru" else cells.layer_norm_rnn_cell)(x_t, h, w, norms)
        steps.append(h)
    assert_same(layer(x)[0], torch.stack(steps))


def test_layer_norm_normalises() -> None:
    """Inputs and weights of any scale give the same gates."""
    layer, x = made("lstm", layer_norm=True, bias=False), torch.randn(T, B, I, dtype=torch.float64) * 100
    want = layer(x)[0]
    with torch.no_grad():
        layer.weight_ih_l0.mul_(1000)
    torch.testing.assert_close(layer(x)[0], want, rtol=1e-4, atol=1e-4)  # but for the 1e-5 beside the variance


@every_kind
def test_recurrent_dropout_has_one_mask_for_a_whole_sequence(kind: str) -> None:
    layer, x = made(kind, recurrent_dropout=0.4), torch.randn(T, B, I, dtype=torch.float64)
    torch.manual_seed(5)
    got = layer(x)[0]
    torch.manual_seed(5)
    mask = torch.empty(B, H, dtype=torch.float64).bernoulli_(0.6) / 0.6
    w, _ = layer.layer_weights()[0]
    h = c = torch.zeros(B, H, dtype=torch.float64)
    for t in range(T):
        x_gates, h_gates = x[t] @ w.w_ih.T + w.b_ih, (h * mask) @ w.w_hh.T + w.b_hh
        if kind == "lstm":
            h, c = cells.lstm_from_gates(x_gates + h_gates, c)
        else:
            h = cells.gru_from_gates(x_gates, h_gates, h) if kind == "gru" else torch.tanh(x_gates + h_gates)
        assert_same(got[t], h)


@every_kind
def test_zoneout_keeps_units_in_training_and_takes_the_expectation_in_evaluation(kind: str) -> None:
    layer = made(kind, zoneout=0.5)
    x, hx = torch.randn(1, B, I, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    state = (hx, torch.zeros_like(hx)) if kind == "lstm" else hx
    plain = KINDS[kind](I, H).double()
    plain.load_state_dict(layer.state_dict())
    fresh, output = plain(x, state)[0], layer(x, state)[0]
    stayed = output == hx
    assert 0 < stayed.sum() < stayed.numel()
    assert_same(output[~stayed], fresh[~stayed])
    layer.eval()
    assert_same(layer(x, state)[0], 0.5 * hx + 0.5 * fresh)


def test_zoneout_of_c_leaves_the_fresh_h() -> None:
    layer, plain = made("lstm", zoneout_cell=0.5).eval(), unrolled.LSTM(I, H).double()
    plain.load_state_dict(layer.state_dict())
    x, state = torch.randn(1, B, I, dtype=torch.float64), tuple(torch.randn(2, 1, B, H, dtype=torch.float64))
    (output, (_, c)), (fresh, (_, fresh_c)) = layer(x, state), plain(x, state)
    assert_same(output, fresh)
    assert_same(c, 0.5 * state[1] + 0.5 * fresh_c)


@every_kind
@pytest.mark.parametrize("direction", [False, True])
def test_sequences_and_resets_start_from_the_learned_state(kind: str, direction: bool) -> None:
    layer = made(kind, learned_state=True, bidirectional=direction)
    x, count = torch.randn(T, B, I, dtype=torch.float64), 1 + direction
    begin = [part.unsqueeze(1).expand(count, B, H) for part in layer.learned()]
    begin = tuple(begin) if kind == "lstm" else begin[0]
    all_same(flat(layer(x)), flat(layer(x, begin)))
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[0] = resets[-1] = True  # before the first step of either direction: hx does not matter
    elsewhere = tuple(torch.randn(2, count, B, H, dtype=torch.float64))
    elsewhere = elsewhere if kind == "lstm" else elsewhere[0]
    all_same(flat(layer(x, elsewhere, resets=resets)), flat(layer(x, resets=resets)))
    whole = layer(x, resets=resets)[0]
    for reads, first in enumerate((T - 1, 1)[:count]):  # reading backwards, the step that a reset sets apart is the first
        pieces = torch.cat([layer(x[:first])[0], layer(x[first:])[0]])
        assert_same(whole[..., reads * H : (reads + 1) * H], pieces[..., reads * H : (reads + 1) * H])
    layer(x, elsewhere, resets=resets)[0].sum().backward()
    assert all(layer.get_parameter(name).grad.any() for name in ("initial_h", "initial_c")[: len(layer.learned())])


@every_kind
@every_option
def test_lengths_are_running_each_sequence_alone(kind: str, options: dict) -> None:
    layer = made(kind, **options, num_layers=2, bidirectional=True).eval()
    x, lengths = torch.randn(T, B, I, dtype=torch.float64), torch.tensor([2, 5, 0])
    output, state = layer(x, lengths=lengths)
    for b, length in enumerate(lengths[:2]):
        alone, last = layer(x[:length, b : b + 1])
        assert_same(output[:length, b], alone[:, 0])
        all_same([part[:, b] for part in flat((output, state))[1:]], [part[:, 0] for part in flat((alone, last))[1:]])
    assert not output[:, 2].any()


@every_kind
@every_option
def test_steps_states_and_packed_sequences_give_the_sequence(kind: str, options: dict) -> None:
    layer = made(kind, **options, num_layers=2).eval()
    x = torch.randn(T, B, I, dtype=torch.float64)
    want = flat(layer(x))
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            state, outputs = None, []
            for x_t in x:
                output, state = layer.step(x_t, state)
                outputs.append(output)
            all_same(flat((torch.stack(outputs), state)), want)
    assert_same(layer.states(x)[-1].h, want[0])
    packed = nn.utils.rnn.pack_padded_sequence(x, [T] * B)
    assert_same(nn.utils.rnn.pad_packed_sequence(layer(packed)[0])[0], want[0])


@every_kind
@every_option
def test_gradients_are_those_of_the_definition(kind: str, options: dict, monkeypatch) -> None:
    """The compiled steps, with the same random numbers, against the cells in a loop."""
    layer = made(kind, **options, num_layers=2, bidirectional=True)
    ids, table = torch.randint(9, (T, B)), torch.randn(9, I, dtype=torch.float64, requires_grad=True)
    how = {"lengths": torch.tensor([5, 0, 3]), "resets": torch.rand(T, B) < 0.3, "embedding": table}
    found = []
    for backends in (plan.BACKENDS, plan.BACKENDS[-1:]):
        monkeypatch.setattr(plan, "BACKENDS", backends)
        torch.manual_seed(1)
        norms = torch.zeros(4, 2, T, B)
        results = flat(layer(ids, **how, gradient_norms=norms))
        loss = sum((k + 1) * r.square().sum() for k, r in enumerate(results))
        loss.backward()
        found.append([*results, *(p.grad for p in layer.parameters()), table.grad, norms])
        layer.zero_grad()
        table.grad = None
    all_same(*found)


@every_kind
@every_option
def test_copies_and_pickles_keep_the_options(kind: str, options: dict) -> None:
    layer, x = made(kind, **options).eval(), torch.randn(T, B, I, dtype=torch.float64)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x)[0], layer(x)[0])
    other = KINDS[kind](I, H, **options).double().eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], layer(x)[0])
    for name, value in options.items():
        assert f"{name}={value}" in repr(layer)


@every_kind
@every_option
def test_the_same_seed_gives_the_same_bits(kind: str, options: dict) -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        layer = KINDS[kind](I, H, num_layers=2, **options)
        output = layer(torch.randn(T, B, I))[0]
        output.square().sum().backward()
        runs.append([output, *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@every_kind
@every_option
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_is_fp32_rounded_at_the_end(kind: str, options: dict, masked: bool) -> None:
    half = made(kind, **options).bfloat16()
    exact, x = copy.deepcopy(half).float(), torch.randn(T, B, I).bfloat16()
    how = {"lengths": torch.tensor([5, 0, 3]), "resets": torch.rand(T, B) < 0.3} if masked else {}
    if options == OPTIONS["learned_state"] and not masked:
        how = {"resets": torch.rand(T, B) < 0.3}  # without any the plain kernels serve, which round h at every step

    def run(layer, x: torch.Tensor, autocast: bool = False) -> list[torch.Tensor]:
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return flat(layer(x, **how))

    want, weights = run(exact, x.float()), list(exact.parameters())
    for layer, got in ((half, run(half, x)), (exact, run(exact, x.float(), autocast=True))):
        assert [part.dtype for part in got] == [torch.bfloat16] * len(got)
        if "recurrent_dropout" not in options:  # whose 1 / (1 - rate) is rounded too
            assert all(torch.equal(one, other.bfloat16()) for one, other in zip(got, want, strict=True))
        all_same(got, [part.bfloat16() for part in want])
        gradients = torch.autograd.grad(sum(part.float().sum() for part in got), list(layer.parameters()))
        wanted = torch.autograd.grad(sum(part.sum() for part in want), weights, retain_graph=True)
        all_same([one.bfloat16() for one in gradients], [one.bfloat16() for one in wanted])


def test_projections_take_every_option() -> None:
    layer = made("lstm", proj_size=3, **OPTIONS["all"], zoneout_cell=0.2)
    output, (h, c) = layer(torch.randn(T, B, I, dtype=torch.float64), resets=torch.rand(T, B) < 0.3)
    output.sum().backward()
    assert (output.shape, h.shape, c.shape) == ((T, B, 3), (1, B, 3), (1, B, H))


def test_forget_bias_is_what_the_two_biases_sum_to() -> None:
    layer = unrolled.LSTM(I, H, num_layers=2, bidirectional=True, forget_bias=1.0)
    for suffix in ("_l0", "_l1", "_l0_reverse", "_l1_reverse"):
        both = getattr(layer, "bias_ih" + suffix) + getattr(layer, "bias_hh" + suffix)
        assert torch.equal(both[H : 2 * H], torch.ones(H))
        assert not (both[:H] == both[:H].round()).all()
    nn.LSTM(I, H, num_layers=2, bidirectional=True).load_state_dict(layer.state_dict())


@every_kind
def test_without_options_the_parameters_are_torchs(kind: str) -> None:
    theirs = getattr(nn, KINDS[kind].__name__)(I, H)
    assert list(KINDS[kind](I, H, save="outputs").state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_saving_outputs_only_changes_no_answer(kind: str) -> None:
    x = torch.randn(600, 8, I, dtype=torch.float64, requires_grad=True)
    how = {"lengths": torch.randint(0, 601, (8,)), "resets": torch.rand(600, 8) < 0.01}
    layer = KINDS[kind](I, H, num_layers=2, bidirectional=True).double()
    results = []
    for save in ("gates", "outputs"):
        layer.save = save
        norms = torch.zeros(4, 2, 600, 8)
        values = flat(layer(x, **how, gradient_norms=norms))
        results.append([*values, *torch.autograd.grad(sum(v.square().sum() for v in values), [x, *layer.parameters()]), norms])
    all_same(*results)


class TestConversion:
    def test_options_that_torch_lacks_are_left_and_named(self) -> None:
        for options in OPTIONS.values():
            layer = unrolled.LSTM(I, H, **options)
            (reason,) = unrolled.restore(layer).left.values()
            assert "is not in torch.nn.LSTM" in reason
            assert isinstance(layer, unrolled.LSTM)

    def test_options_that_change_no_answer_are_no_hindrance(self) -> None:
        layer = unrolled.LSTM(I, H, save="outputs", forget_bias=1.0)
        unrolled.restore(layer)
        assert type(layer) is nn.LSTM
        unrolled.convert(layer)
        assert (layer.save, layer.forget_bias, layer.step_option) == ("gates", None, "")

    def test_onnx_refuses_what_it_cannot_say(self, tmp_path) -> None:
        pytest.importorskip("onnx")
        for option in ("layer_norm", "zoneout", "learned_state"):
            with pytest.raises(ExportError, match=f"LSTM cannot be exported: {option}="):
                unrolled.export_onnx(unrolled.LSTM(I, H, **OPTIONS[option]), tmp_path / "no.onnx")
        assert not list(tmp_path.iterdir())
        for options in ({"recurrent_dropout": 0.4}, {"save": "outputs", "forget_bias": 1.0}):
            unrolled.export_onnx(unrolled.LSTM(I, H, **options), tmp_path / "yes.onnx")


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "options", "text"),
        [
            ("gru", {"zoneout_cell": 0.1}, r"GRU has no cell state: expected zoneout_cell=0, got 0\.1\. Use zoneout\."),
            ("rnn", {"forget_bias": 1.0}, r"RNN has no forget gate: expected forget_bias=None, got 1\.0\."),
            ("lstm", {"forget_bias": 1.0, "bias": False}, r"LSTM expected bias=True with forget_bias=1\.0, got bias=False\."),
            ("lstm", {"zoneout": 1.0}, r"LSTM expected zoneout to be a probability from 0 to below 1, got 1\.0\."),
            ("gru", {"recurrent_dropout": "x"}, "GRU expected recurrent_dropout to be a probability"),
            ("gru", {"save": "states"}, r"GRU expected save to be 'gates' or 'outputs', got 'states'\."),
            ("lstm", {"save": "outputs", "zoneout": 0.1}, "LSTM expected save='gates' with zoneout, got save='outputs'"),
            ("lstm", {"save": "outputs", "proj_size": 2}, "LSTM expected save='gates' with proj_size"),
        ],
    )
    def test_values(self, kind: str, options: dict, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            KINDS[kind](I, H, **options)

    def test_names_and_types(self) -> None:
        with pytest.raises(TypeError, match=r"got an unexpected argument 'zonout'; its options are save, .*zoneout"):
            unrolled.LSTM(I, H, zonout=0.1)  # pyright: ignore[reportCallIssue]
        with pytest.raises(TypeError, match=r"GRU expected layer_norm of type bool, got 1\."):
            unrolled.GRU(I, H, layer_norm=1)  # pyright: ignore[reportArgumentType]

    def test_a_single_step_cannot_have_a_sequences_mask(self) -> None:
        layer = unrolled.GRU(I, H, recurrent_dropout=0.3)
        with pytest.raises(RuntimeError, match=r"GRU\.step expected evaluation mode, got recurrent_dropout=0\.3 in training"):
            layer.step(torch.zeros(B, I))

    def test_resets_of_another_batch(self) -> None:
        layer = unrolled.GRU(I, H, learned_state=True)
        with pytest.raises(ValueError, match=r"resets expected booleans .*\(T=5, B=3\), got a tensor of shape \(5, 2\)"):
            layer(torch.zeros(T, B, I), resets=torch.zeros(T, 2, dtype=torch.bool))


@pytest.mark.parametrize("option", [{"zoneout": 0.3}, {"layer_norm": True}, {"recurrent_dropout": 0.4}], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_without_biases_it_learns_as_with_biases_of_zero(kind: str, option: dict) -> None:
    without = getattr(unrolled, kind)(3, 5, num_layers=2, bias=False, **option)
    zeros = getattr(unrolled, kind)(3, 5, num_layers=2, **option)
    with torch.no_grad():
        for name, parameter in zeros.named_parameters():
            if name in dict(without.named_parameters()):
                parameter.copy_(dict(without.named_parameters())[name])
            elif name.startswith(("bias_ih", "bias_hh")):
                parameter.zero_()
    x, gradients = torch.randn(4, 2, 3), []
    for layer in (without, zeros):
        torch.manual_seed(1)
        layer(x)[0].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in layer.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_same(gradient, gradients[1][name])
