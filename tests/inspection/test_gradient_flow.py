"""Where gradients go: against norms that are known, against autograd, and what is refused."""

import copy
import gc
import json
import os
import shutil
import weakref
from pathlib import Path
from threading import Thread

import pytest
import torch
from matplotlib.figure import Figure
from tests.tolerance import assert_same
from torch import Tensor, nn

import unrolled
from unrolled.attention import AdditiveAttention
from unrolled.cell_layers import ProjectedStep
from unrolled.decoder import Decoder, Memory
from unrolled.errors import RunError
from unrolled.inspection import figures, gradients, jacobian
from unrolled.inspection.gradient_flow import Flow, Recorder
from unrolled.inspection.inside import saturation, spectral_radii, take_apart
from unrolled.layers import Recurrent
from unrolled.tasks import reopened
from unrolled.tasks.language_model import data as language_model_data

T, B, I, H = 9, 3, 2, 4
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def diagonal(*values: float) -> unrolled.RNN:
    """A vanilla RNN of which every state is 0, where tanh' is 1: with W_hh = diag(values) it is linear."""
    rnn = unrolled.RNN(I, len(values), bias=False)
    with torch.no_grad():
        rnn.weight_ih_l0.zero_()
        rnn.weight_hh_l0.copy_(torch.diag(torch.tensor(values)))
    return rnn


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
def test_a_linear_rnn_multiplies_its_gradient_by_the_weight_at_every_step(weight: float) -> None:
    rnn, x = diagonal(weight, weight), torch.randn(T, B, I)
    with Recorder(rnn) as recorder:
        rnn(x)[0][-1].sum().backward()
    (flow,) = recorder.flows()
    assert_same(torch.tensor(flow.h), torch.tensor([2**0.5 * weight**d for d in range(T)]))
    assert_same(torch.tensor(flow.factor), torch.tensor(weight))


@pytest.mark.parametrize("variant", [{}, {"num_layers": 2}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_of_a_loss_at_every_step_only_the_last_ones_is_taken_back(kind: str, variant: dict) -> None:
    layer, x = getattr(unrolled, kind)(I, H, **variant), torch.randn(B, T, I)
    x = x if layer.batch_first else x.transpose(0, 1)
    with Recorder(layer) as recorder:
        layer(x)[0].square().sum().backward()
    found = recorder.flows()
    norms = torch.zeros(layer.num_layers, 2, T, B)
    layer(x, gradient_norms=norms)[0].select(1 if layer.batch_first else 0, -1).square().sum().backward()
    for flow, expected in zip(found, norms.flip(2).mean(3), strict=True):
        assert flow.of_last_step
        assert_same(torch.tensor(flow.h), expected[0])
        if kind == "LSTM":
            assert_same(torch.tensor(flow.c), expected[1])


def test_a_second_direction_is_followed_from_the_first_step() -> None:
    layer, x = unrolled.GRU(I, H, bidirectional=True), torch.randn(T, B, I)
    with Recorder(layer) as recorder:
        layer(x)[0].square().sum().backward()
    _, backwards = recorder.flows()
    norms = torch.zeros(2, 2, T, B)
    layer(x, gradient_norms=norms)[0][0, :, H:].square().sum().backward()
    assert backwards.name == "l0_reverse"
    assert_same(torch.tensor(backwards.h), norms[1, 0].mean(1))


@pytest.mark.parametrize("loss_at", [slice(None), slice(T - 1, T), slice(2, 6)], ids=["every step", "the last step", "between"])
def test_layers_in_two_directions_take_each_others_gradient_on(loss_at: slice) -> None:
    layer, x = unrolled.RNN(I, H, num_layers=2, bidirectional=True), torch.randn(T, B, I)
    with Recorder(layer) as recorder:
        layer(x)[0][loss_at].square().sum().backward()
    first, last = range(T)[loss_at][0], range(T)[loss_at][-1]
    for flow in recorder.flows():
        reverse = flow.name.endswith("reverse")
        output, states = stepped_in_two_directions(layer, x)
        of_interest = states[flow.name]
        grads = torch.autograd.grad(output[first if reverse else last].square().sum(), of_interest, allow_unused=True)
        norms = [torch.zeros(()) if grad is None else grad.norm(dim=1).mean() for grad in grads]
        expected = norms[first:] if reverse else norms[: last + 1][::-1]
        assert flow.of_last_step
        assert_same(torch.tensor(flow.h), torch.stack(expected))


def stepped_in_two_directions(layer: unrolled.RNN, x: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The output, and every h_t by the names of `Flow`, from the equation."""
    states: dict[str, list[Tensor]] = {}
    for number in range(layer.num_layers):
        for ending in ("", "_reverse"):
            w_ih, w_hh, b_ih, b_hh = (getattr(layer, f"{kind}_l{number}{ending}") for kind in WEIGHTS)
            h, found = torch.zeros(x.shape[1], layer.hidden_size), []
            for x_t in x.flip(0) if ending else x:
                h = torch.tanh(x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
                found.append(h)
            states[f"l{number}{ending}"] = found[::-1] if ending else found
        x = torch.cat([torch.stack(states[f"l{number}{ending}"]) for ending in ("", "_reverse")], 2)
    return x, states


def test_each_sequence_is_followed_from_its_own_last_step() -> None:
    rnn, lengths = diagonal(0.5), torch.tensor([T, 2, 4])
    with Recorder(rnn) as recorder:
        rnn(torch.randn(T, B, I), lengths=lengths)[0].sum().backward()
    (flow,) = recorder.flows()
    assert_same(torch.tensor(flow.left), torch.tensor([0.5**d for d in range(T)]))


def test_a_state_carried_with_its_gradient_joins_the_calls() -> None:
    rnn, x = diagonal(0.9), torch.randn(T, B, I)
    with Recorder(rnn) as recorder:
        first, state = rnn(x[:4])
        torch.cat([first, rnn(x[4:], state)[0]]).sum().backward()
        rnn.zero_grad()
    (flow,) = recorder.flows()
    assert_same(torch.tensor(flow.left), torch.tensor([0.9**d for d in range(T)]))
    with Recorder(rnn) as recorder:
        _, state = rnn(x[:4])
        rnn(x[4:], state.detach())[0].sum().backward()
    (flow,) = recorder.flows()
    assert len(flow.left) == T - 4


@pytest.mark.parametrize("make", [unrolled.LSTMCell, unrolled.GRUCell, nn.LSTMCell], ids=lambda make: make.__module__[:5])
def test_cells_stepped_by_hand_are_seen_with_the_whole_loss(make: type) -> None:
    cell, x, state = make(I, H), torch.randn(T, B, I), None
    seen = []
    with Recorder(cell) as recorder:
        for x_t in x:
            state = cell(x_t, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
            seen[-1].retain_grad()
        torch.stack(seen).square().sum().backward()
    (flow,) = recorder.flows()
    assert not flow.of_last_step
    assert_same(torch.tensor(flow.h), torch.stack([h.grad.norm(dim=1).mean() for h in reversed(seen)]))


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_decoder_s_first_layer_is_seen_where_attention_waits_for_it(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(11, size=H, num_layers=2, cell=cell, attention=AdditiveAttention, place="before")
    vectors, seen, step = torch.randn(B, 4, H), [], ProjectedStep.forward
    assert decoder.attention is not None
    start = torch.randn(B, 2 * H * (1 + (cell == "lstm")))
    memory = Memory(vectors, decoder.attention.keys(vectors), start)

    def keep(*args) -> tuple[torch.Tensor, ...]:
        state = step(*args)
        state[0].retain_grad()
        seen.append(state[0])
        return state

    monkeypatch.setattr(ProjectedStep, "forward", keep)
    with Recorder(decoder) as recorder:
        decoder(memory, torch.randint(11, (B, T))).logits.square().sum().backward()
    first, second = recorder.flows()
    assert (first.name, second.name) == ("layers.1.l0", "first_step")
    assert_same(torch.tensor(second.h), torch.stack([h.grad.norm(dim=1).mean() for h in reversed(seen)]))


def flows_of(model: nn.Module, loss) -> list[Flow]:
    with Recorder(model) as recorder:
        loss().backward()
    return recorder.flows()


def assert_alike(one: list[Flow], other: list[Flow]) -> None:
    assert [flow.name for flow in one] == [flow.name for flow in other]
    for a, b in zip(one, other, strict=True):
        assert a.of_last_step == b.of_last_step
        for name in ("h", "c", "left", "everything"):
            assert_same(torch.tensor(getattr(a, name)), torch.tensor(getattr(b, name)))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
class TestWhatTheLossReads:
    """Two losses that say the same of the last step have the same flow."""

    def layer(self, kind: str, batch_first: bool, **options) -> unrolled.layers.Recurrent:
        return getattr(unrolled, kind)(I, H, num_layers=2, batch_first=batch_first, **options)

    def test_an_output_may_be_written_to(self, kind: str, batch_first: bool) -> None:
        layer, x = self.layer(kind, batch_first), torch.randn(T, B, I)
        there, apart = flows_of(layer, lambda: layer(x)[0].relu_().sum()), flows_of(layer, lambda: layer(x)[0].relu().sum())
        assert_alike(there, apart)

    @pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
    @pytest.mark.parametrize("lengths", [[T, 4, 2], [T - 1, 4, 2]], ids=["one is whole", "none is whole"])
    def test_padding_does_not_count(self, kind: str, batch_first: bool, bidirectional: bool, lengths: list[int]) -> None:
        layer = self.layer(kind, batch_first, bidirectional=bidirectional)
        x, ends = torch.randn(B, T, I), torch.tensor(lengths)
        inside = torch.arange(T)[None] < ends[:, None]  # (B, T)
        x, inside = (x, inside) if batch_first else (x.transpose(0, 1), inside.T)
        pooled = flows_of(layer, lambda: layer(x, lengths=ends)[0].sum(int(batch_first)).square().sum())
        masked = flows_of(layer, lambda: (layer(x, lengths=ends)[0] * inside[..., None]).sum(int(batch_first)).square().sum())
        assert_alike(pooled, masked)

    def test_a_loss_of_the_last_state_is_one_of_the_last_step(self, kind: str, batch_first: bool) -> None:
        layer, x = self.layer(kind, batch_first), torch.randn(T, B, I)
        time = int(batch_first)

        def loss(of_output: int, of_state: int) -> Tensor:
            output, state = layer(x)
            h = state[0] if isinstance(state, tuple) else state
            return of_output * output.select(time, -1).sum() + of_state * h[-1].sum() + output.select(time, 0).square().sum()

        assert_alike(flows_of(layer, lambda: loss(1, 2))[:1], flows_of(layer, lambda: loss(3, 0))[:1])
        assert len(flows_of(layer, lambda: loss(0, 1))[1].h) == x.shape[time]


def test_windows_may_end_unread_and_be_read_backwards() -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)

    def windows(read) -> Tensor:
        first, state = layer(x[:4])
        return read(first, layer(x[4:], state)[0], state)

    apart = flows_of(layer, lambda: layer(x[:4])[0][2].sum())
    assert_alike(flows_of(layer, lambda: windows(lambda a, b, state: torch.cat([a, b])[2].sum())), apart)
    both = flows_of(layer, lambda: windows(lambda a, b, state: a.sum() + 10 * state.sum()))
    assert both[0].h[0] == pytest.approx(11 * H**0.5)
    two = unrolled.GRU(I, H, bidirectional=True)
    (reverse,) = flows_of(two, lambda: two(x[4:], two(x[:4])[1])[1][1].sum())
    assert reverse.h == sorted(reverse.h, reverse=True)
    assert len(reverse.h) == T


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_frozen_learned_state_is_begun_with(kind: str) -> None:
    layer, x = getattr(unrolled, kind)(I, H, learned_state=True), torch.randn(T, B, I)
    with torch.no_grad():
        layer.initial_h.fill_(0.5)
    learning = flows_of(layer, lambda: layer(x)[0].square().sum())
    layer.initial_h.requires_grad_(False)
    assert_alike(flows_of(layer, lambda: layer(x)[0].square().sum()), learning)


def test_a_loss_of_the_last_cell_state_alone_begins_there() -> None:
    layer, x = unrolled.LSTM(I, H), torch.randn(T, B, I)
    (flow,) = flows_of(layer, lambda: layer(x)[1][1].sum())
    assert len(flow.c) == T
    assert flow.c[0] == pytest.approx(H**0.5)


def test_a_state_may_be_given_by_name_and_changed_between_steps() -> None:
    cell, x = unrolled.GRUCell(I, H), torch.randn(T, B, I)

    def stepped(step) -> Tensor:
        h = torch.zeros(B, H)
        for x_t in x:
            h = step(x_t, h)
        return h.square().sum()

    plain = flows_of(cell, lambda: stepped(cell))
    assert_alike(flows_of(cell, lambda: stepped(lambda x_t, h: cell(x_t, hx=h))), plain)
    assert_alike(flows_of(cell, lambda: stepped(lambda x_t, h: cell(x_t, h.flip(0).flip(0) * 1.0))), plain)
    (cut,) = flows_of(cell, lambda: stepped(lambda x_t, h: cell(x_t, h.detach())))
    assert len(cut.h) == 1


def test_sequences_may_leave_a_batch_between_steps() -> None:
    cell, x, seen = unrolled.GRUCell(I, H), torch.randn(T, B, I), []

    def loss() -> Tensor:
        h = torch.zeros(B, H)
        for t, x_t in enumerate(x):
            left = B if t < T // 2 else B - 1
            h = cell(x_t[:left], h[:left])
            h.retain_grad()
            seen.append(h)
        return h.square().sum()

    (flow,) = flows_of(cell, loss)
    assert_same(torch.tensor(flow.h), torch.stack([h.grad.norm() for h in reversed(seen)]))


def test_transforms_of_torch_func_are_left_alone() -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(2, T, B, I)
    with Recorder(layer) as recorder:
        found = torch.func.vmap(lambda one: layer(one)[0])(x)
    assert_same(found[1], layer(x[1])[0])
    assert recorder.flows() == []


def test_a_copy_made_while_recorded_is_not_recorded_for_good() -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    with Recorder(layer) as recorder:
        other = copy.deepcopy(layer)
    other(x)[0].sum().backward()
    assert recorder.flows() == []


def test_a_text_may_come_through_a_pipe_though_it_is_read_for_other_batches_again(
    command, trained: Path, real_text: Path, tmp_path: Path
) -> None:
    short = real_text.read_bytes()[:300]
    (tmp_path / "short.txt").write_bytes(short)
    os.mkfifo(tmp_path / "pipe")
    for verb in ("gradients", "truncation"):
        writer = Thread(target=(tmp_path / "pipe").write_bytes, args=(short,))
        writer.start()
        piped = command("inspect", verb, trained, tmp_path / "pipe", "--json")
        writer.join()
        read = command("inspect", verb, trained, tmp_path / "short.txt", "--json")
        assert (piped[0], piped[2]) == (0, ""), piped
        assert json.loads(piped[1]) | {"data": []} == json.loads(read[1]) | {"data": []}


def test_what_is_wrong_with_piped_text_is_said_of_the_pipe(command, trained: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = Thread(target=(tmp_path / "pipe").write_bytes, args=(b"Hi",))
    writer.start()
    code, _, err = command("inspect", "gradients", trained, tmp_path / "pipe")
    writer.join()
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {tmp_path / 'pipe'}: expected no more steps than the data have")


def test_a_run_is_looked_into_on_other_text_when_its_own_is_gone(trained: Path, real_text: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / language_model_data.FOLDER)
    one, other = (reopened.gradients(run, [str(real_text)])[0] for run in (trained, tmp_path / "run"))
    assert one.flows == other.flows
    with pytest.raises(RunError, match="missing"):
        reopened.gradients(tmp_path / "run")


def test_a_figure_and_its_numbers_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "name.png").write_bytes(b"before")
    (tmp_path / "name.json").mkdir()
    with pytest.raises(RunError, match=r"name\.json"):
        figures.write(Figure(), {}, tmp_path, "name")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name.json", "name.png"]
    assert (tmp_path / "name.png").read_bytes() == b"before"


class TestLooking:
    def test_leaves_gradients_and_hooks_as_they_were(self) -> None:
        layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
        layer(x)[0].sum().backward()
        before = [weight.grad for weight in layer.parameters()]
        kept = [grad.clone() for grad in before if grad is not None]
        with torch.no_grad():
            gradients.look(layer, lambda: layer(input=x)[0].sum())
        with pytest.raises(ZeroDivisionError):
            gradients.look(layer, lambda: 1 / 0)  # type: ignore[arg-type]  # it does not come to an answer
        assert all(weight.grad is grad for weight, grad in zip(layer.parameters(), before, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
        assert not layer._forward_pre_hooks

    @pytest.mark.parametrize("loss", [float("nan"), float("inf")])
    def test_refuses_a_loss_that_is_no_number(self, loss: float) -> None:
        layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
        with pytest.raises(RunError, match=f"expected a finite loss, got {loss}"):
            gradients.look(layer, lambda: layer(x)[0].sum() * 0 + loss)

    @pytest.mark.parametrize("wrong", ["a step's loss each", "detached", "a float"])
    def test_refuses_a_loss_that_nothing_can_be_asked_of(self, wrong: str) -> None:
        layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
        losses = {
            "a step's loss each": lambda: layer(x)[0].sum((1, 2)),
            "detached": lambda: layer(x)[0].detach().sum(),
            "a float": lambda: 1.0,
        }
        with pytest.raises(RunError, match="expected a loss of one number that depends on the model, with its graph, got "):
            gradients.look(layer, losses[wrong])

    def test_says_that_a_packed_sequence_is_not_seen(self) -> None:
        layer, packed = unrolled.GRU(I, H), nn.utils.rnn.pack_sequence([torch.randn(T, I), torch.randn(4, I)])
        with pytest.raises(RunError, match=r"or with packed sequences\. Give padded ones and lengths="):
            gradients.look(layer, lambda: layer(packed)[0].data.sum())

    def test_says_the_first_name_of_a_layer_that_has_two(self) -> None:
        model = nn.ModuleDict({"a": unrolled.GRU(I, H)})
        model["b"] = model["a"]
        with pytest.raises(RunError, match="layer 'b' is another name of 'a'"):
            gradients.look(model, lambda: torch.zeros(()), "b")

    def test_says_which_calls_it_cannot_see(self) -> None:
        layer, x = unrolled.GRU(I, H), torch.randn(T, I)
        with pytest.raises(RunError, match="does not depend on one, or calls it without a batch"):
            gradients.look(layer, lambda: layer(x)[0].sum())


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_being_recorded_changes_no_gradient(kind: str) -> None:
    layer, x = getattr(unrolled, kind)(I, H, num_layers=2), torch.randn(T, B, I)
    layer(x)[0].square().sum().backward()
    alone = [weight.grad.clone() for weight in layer.parameters()]
    layer.zero_grad()
    with Recorder(layer):
        layer(x)[0].square().sum().backward()
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(layer.parameters(), alone, strict=True))
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


@pytest.mark.parametrize("ends", ["flows", "another pass"])
@pytest.mark.parametrize("kind", ["LSTM", "GRUCell"])
def test_recorded_passes_leave_nothing_alive(kind: str, ends: str) -> None:
    module, graphs = getattr(unrolled, kind)(I, H), []
    recorder = Recorder(module)
    for _ in range(3):
        with recorder:
            if kind == "LSTM":
                output, _ = module(torch.randn(T, B, I))
            else:
                output = module(torch.randn(B, I), module(torch.randn(B, I)))
        output.sum().backward()
        if ends == "flows":
            assert recorder.flows()
        graphs.append(weakref.ref(output.grad_fn))
        del output
    gc.collect()
    assert [graph() for graph in graphs[:-1]] == [None, None]
    recorder.flows()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_singular_values_are_those_of_the_full_jacobian(kind: str) -> None:
    layer = getattr(unrolled, kind)(I, H)
    (inside,) = take_apart(layer, torch.randn(T, 1, I))
    found = jacobian.through_time(inside, [1, 5], count=2)
    for path, points in found.items():
        for point in points:
            begin = T - point["distance"]
            h, c = inside.h[begin], None if inside.c is None else inside.c[begin]

            def ahead(state: torch.Tensor, path=path, begin=begin, h=h, c=c) -> torch.Tensor:
                given = (state, c) if path == "h" else (h, state)
                hx = given if kind == "LSTM" else given[0]
                x = inside.x_gates[begin:]
                twin = Gates(layer, x)
                return twin.run(hx)[0 if path == "h" else 1][0]

            full = torch.autograd.functional.jacobian(ahead, h if path == "h" else c)[:, 0]
            values = torch.linalg.svdvals(full)
            assert point["singular_values"] == pytest.approx(values[:2].tolist(), rel=2e-2)


class Gates:
    """The layer from a state on, on torch's cells in float64."""

    def __init__(self, layer: Recurrent, x_gates: torch.Tensor) -> None:
        self.layer, self.x_gates = layer, x_gates

    def run(self, hx):
        from unrolled import cells

        w = self.layer.layer_weights()[0].cell
        w_hh, b_hh = w.w_hh.double(), w.b_hh.double()
        for x in self.x_gates:
            if self.layer.mode == "LSTM":
                hx = cells.lstm_step(x, *hx, w_hh, b_hh)
            else:
                hx = {"GRU": cells.gru_step, "RNN_TANH": cells.rnn_tanh_step}[self.layer.mode](x, hx, w_hh, b_hh)
        return hx if isinstance(hx, tuple) else (hx,)


def test_the_jacobian_of_a_diagonal_rnn_has_the_powers_of_its_weights() -> None:
    (inside,) = take_apart(diagonal(1.1, 0.5, 0.25), torch.randn(T, B, I))
    for point in jacobian.through_time(inside, [1, 4])["h"]:
        powers = [weight ** point["distance"] for weight in (1.1, 0.5, 0.25)]
        assert point["singular_values"] == pytest.approx(powers, rel=1e-2)
    assert spectral_radii(inside)["h"] == pytest.approx(1.1)


def test_spectral_radius_is_no_norm() -> None:
    """A rotation has complex eigenvalues; a shear a norm far above its radius."""
    rnn = diagonal(0.0, 0.0)
    for matrix, radius in (([[0.0, -2.0], [2.0, 0.0]], 2.0), ([[0.5, 100.0], [0.0, 0.5]], 0.5)):
        rnn.weight_hh_l0.data.copy_(torch.tensor(matrix))
        assert spectral_radii(take_apart(rnn, torch.zeros(2, 1, I))[0])["h"] == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_driven_to_their_ends_are_saturated(kind: str) -> None:
    layer = getattr(unrolled, kind)(I, H)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0[:H], layer.bias_ih_l0[H : 2 * H] = -9, 9
    (inside,) = take_apart(layer, torch.randn(T, B, I))
    found, (first, second) = saturation(inside), ("if" if kind == "LSTM" else "rz")
    assert (found[first], found[second]) == ({"shut": 1.0, "open": 0.0}, {"shut": 0.0, "open": 1.0})


@pytest.mark.parametrize("variant", [{"num_layers": 2, "bidirectional": True}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_call_taken_apart_comes_to_the_layers_states(kind: str, variant: dict) -> None:
    layer = getattr(unrolled, kind)(I, H, dtype=torch.float64, **variant)
    tokens, table = torch.randint(0, 6, (T, B)), torch.randn(6, I, dtype=torch.float64)
    tokens = tokens.t().contiguous() if layer.batch_first else tokens
    for one, state in zip(take_apart(layer, tokens, embedding=table), layer.states(tokens, embedding=table), strict=True):
        h, c = (None if part is None else part.transpose(0, 1) if layer.batch_first else part for part in state)
        order = slice(None) if not one.place.endswith("_reverse") else None
        assert_same(one.h[1:] if order else one.h[1:].flip(0), h)
        if c is not None:
            assert_same(one.c[1:] if order else one.c[1:].flip(0), c)


def test_a_sentence_says_what_happens_and_by_which_number() -> None:
    def said(*left: float) -> str:
        return gradients.in_words([Flow("l0", list(left), [], list(left), True, [])])

    assert said(1, 0.5, 0.001).startswith("The gradient vanishes: from 2 steps back on, less than 1% of it is left (l0: 0.1%")
    assert (
        said(1, 0.5, 0.25) == "The gradient comes through: 2 steps back, 25% of it is left (l0: 25% at 2 steps, 0.5 per step)."
    )
    assert said(1, 0.2, 0.04).startswith("The gradient fades: 2 steps back, 4% of it is left")
    assert said(1) == "One step alone: there is nothing to see on the way back (l0)."
    assert said(1, 20, 400).startswith("The gradient explodes: 2 steps back it is 400 times what it was")


def test_a_gradient_that_overflows_is_said_to_explode_and_can_be_written_as_json() -> None:
    rnn, x = unrolled.RNN(I, H, nonlinearity="relu"), torch.rand(90, B, I)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(1.0)
        rnn.weight_hh_l0.copy_(2 * torch.eye(H))
    found = gradients.look(rnn, lambda: rnn(x)[0][-1].sum())
    assert found.sentence.startswith("The gradient explodes: ")
    assert found.flows[0].factor == pytest.approx(2, rel=1e-3)
    json.dumps(found.numbers(), allow_nan=False)
    assert len(gradients.draw(found).axes) == 3


def test_what_cannot_be_looked_at_is_said() -> None:
    model = nn.Sequential(nn.Linear(I, I), unrolled.GRU(I, H))
    with pytest.raises(RunError, match="layer '0' has no recurrence; recurrent are: '1'"):
        gradients.look(model, lambda: torch.zeros(()), layer="0")
    with pytest.raises(RunError, match="layer 'gru' is no part of this model"):
        gradients.look(model, lambda: torch.zeros(()), layer="gru")
    with pytest.raises(RunError, match="expected a model with recurrent layers, got Linear"):
        gradients.look(model[0], lambda: torch.zeros(()))
    model[1].weight_hh_l0.data[0, 0] = torch.nan
    with pytest.raises(RunError, match=r"1\.weight_hh_l0: expected finite weights, got 1 of 48"):
        gradients.look(model, lambda: torch.zeros(()))


def test_the_command_writes_a_figure_and_prints_its_numbers(command, trained: Path, real_text: Path, tmp_path: Path) -> None:
    code, out, errors = command("inspect", "gradients", trained, real_text, "--steps", "20", "--show", tmp_path, "--json")
    assert (code, errors) == (0, "")
    numbers = json.loads(out)
    layer = numbers["layers"]["layers.l0"]
    assert len(layer["left"]) == len(layer["h"]) == len(layer["c"]) == 20
    assert 0 <= numbers["clipped"] <= 1
    assert Path(numbers["picture"]).read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in Path(numbers["vector"]).read_bytes()[:600]
    assert json.loads(Path(numbers["numbers"]).read_text())["layers"] == numbers["layers"]


def test_the_command_looks_at_an_untrained_cell(command, tmp_path: Path) -> None:
    where = tmp_path / "new" / "folder"
    code, out, _ = command("inspect", "gradients", "--cell", "gru", "--hidden-size", "5", "--steps", "6", "--show", where)
    assert code == 0
    assert out.startswith("The gradient ")
    assert (where / "gradients.png").exists()


def test_bad_input_is_refused_in_a_line(command, trained: Path, real_text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments, expected in {
        (): "expected either RUN or --cell, got neither",
        (trained, "--cell", "gru"): "expected either RUN or --cell, got both",
        (trained, "--hidden-size", "3"): "--hidden-size goes with --cell",
        (trained, "--layer", "decoder"): "layer 'decoder' has no recurrence; recurrent are: 'layers'",
        (trained, real_text, "--steps", "100000"): "expected no more steps than the data have, got 100,000",
        (trained, tmp_path / "nosuch.txt"): "nosuch.txt",
        ("--cell", "gru", "--steps", "3", "--show", tmp_path / "file" / "below"): "below: cannot make this folder",
    }.items():
        code, out, errors = command("inspect", "gradients", *arguments)
        assert (code, out) == (2, ""), errors
        assert expected in errors
