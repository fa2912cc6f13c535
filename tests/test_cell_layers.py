"""The cells are torch.nn's: their draws, states, answers, errors and gradients, whoever watches or changes what."""

import copy
import gc
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import unrolled
from tolerance import assert_same
from unrolled.kernels import cell as kernel
from unrolled.kernels import library

T, B, I, H = 5, 3, 4, 7
KINDS = {
    "lstm": ("LSTMCell", {}),
    "gru": ("GRUCell", {}),
    "tanh": ("RNNCell", {}),
    "relu": ("RNNCell", {"nonlinearity": "relu", "bias": False}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def twins(kind: str, **how):
    """torch.nn's cell and ours, drawn from one seed."""
    name, extra = KINDS[kind]
    made = []
    for home in (nn, unrolled):
        torch.manual_seed(0)
        made.append(getattr(home, name)(I, H, **extra, **how))
    return made


def start(kind: str, *shape: int):
    h = torch.randn(*shape, H)
    return (h, torch.randn(*shape, H)) if kind == "lstm" else h


def parts(state) -> tuple[torch.Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def loop(cell, xs, state=None, weigh=lambda h: h.sin()):
    """Somebody's loop: a loss of every step's h and of the last state."""
    loss = torch.zeros(())
    for x in xs:
        state = cell(x, state)
        loss = loss + weigh(parts(state)[0]).sum()
    return loss + sum(part.cos().sum() for part in parts(state))


def with_weights(cell, weights):
    return lambda *inputs: torch.func.functional_call(cell, weights, inputs)


def gradients(cell, xs, state, **how):
    given = [xs.requires_grad_(), *(part.requires_grad_() for part in parts(state)), *cell.parameters()]
    return torch.autograd.grad(loop(cell, xs, state, **how), given)


def assert_all_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


@every_kind
def test_draws_answers_and_gradients_are_those_of_torch(kind: str) -> None:
    theirs, ours = twins(kind)
    assert repr(ours) == repr(theirs)
    assert_all_same(ours.state_dict().values(), theirs.state_dict().values())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for xs, state in ((torch.randn(T, B, I), start(kind, B)), (torch.randn(T, I), start(kind))):
        assert_all_same(parts(ours(xs[0])), parts(theirs(xs[0])))
        with torch.no_grad():
            assert_all_same(parts(ours(xs[0], state)), parts(theirs(xs[0], state)))
        assert_all_same(gradients(ours, xs, state), gradients(theirs, xs, state))
    across, state = torch.randn(B, T, I).transpose(0, 1), start(kind, B)
    assert_all_same(gradients(ours, across, state), gradients(theirs, across, state))


@pytest.fixture(autouse=True)
def _every_size_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolled.RNNCell, "_is_small_for", lambda self, input: False)


@pytest.mark.skipif(not library.available(), reason="the kernels were not built")
@pytest.mark.parametrize(("batch", "width", "ours"), [(1, 256, True), (33, 256, False), (1, 255, False), (32, 256, True)])
def test_small_steps_of_the_vanilla_cell_are_torchs_where_gradients_are_wanted(
    monkeypatch: pytest.MonkeyPatch, batch: int, width: int, ours: bool
) -> None:
    monkeypatch.undo()
    cell, x = unrolled.RNNCell(2, width), torch.randn(batch, 2)
    assert (type(cell(x).grad_fn).__name__ == "_StepBackward") == ours
    if batch == 1:
        assert (type(cell(x[0]).grad_fn.next_functions[0][0]).__name__ == "_StepBackward") == ours


@pytest.mark.skipif(not library.available(), reason="the kernels were not built")
@every_kind
def test_the_kernels_compute_what_they_can(kind: str) -> None:
    _, ours = twins(kind)
    assert type(parts(ours(torch.randn(B, I)))[0].grad_fn).__name__ == "_StepBackward"
    assert type(parts(ours.double()(torch.randn(B, I).double()))[0].grad_fn).__name__ != "_StepBackward"


@every_kind
def test_errors_are_those_of_torch(kind: str) -> None:
    lstm = kind == "lstm"
    h, narrow, deep = torch.zeros(B, H), torch.zeros(B, H - 1), torch.zeros(1, 1, B, H)
    for input, hx in (
        (torch.zeros(1, B, I, 1), None),
        (torch.zeros(B, I + 1), None),
        (torch.zeros(B, I), (narrow, h) if lstm else narrow),
        (torch.zeros(B, I), (h, deep) if lstm else deep),
        (torch.zeros(B + 1, I), (h, h) if lstm else h),
        (torch.zeros(B, I), (h.double(), h) if lstm else h.double()),
    ):
        said = []
        for cell in twins(kind):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                cell(input, hx)
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]
    name, _ = KINDS[kind]
    with pytest.raises(RuntimeError, match="negative dimension"):
        getattr(unrolled, name)(I, -1)


@every_kind
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_a_weight_of_another_shape_is_refused_as_by_torch(kind: str, name: str) -> None:
    said = []
    for cell in twins(kind):
        if (weight := getattr(cell, name)) is None:
            return
        setattr(cell, name, nn.Parameter(weight.detach()[:-1].clone()))
        with pytest.raises(RuntimeError) as caught:
            cell(torch.zeros(B, I))
        said.append(str(caught.value))
    assert said[0] == said[1]


class Seen(torch.Tensor):
    """More than numbers in memory."""


@every_kind
def test_weights_and_inputs_of_other_kinds_are_read_as_torch_reads_them(kind: str) -> None:
    x, state = torch.randn(B, I), start(kind, B)
    for turned in (False, True):
        theirs, ours = twins(kind)
        for cell in (theirs, ours) if turned else ():  # its rows do not lie one after another
            cell.weight_hh = nn.Parameter(cell.weight_hh.detach().t().contiguous().t())
        for given in (x, torch._neg_view(x), x.as_subclass(Seen)):
            found = [parts(cell(given, state)) for cell in (ours, theirs)]
            assert [type(part) for part in found[0]] == [type(part) for part in found[1]]
            assert_all_same(*found)


@every_kind
def test_a_bias_that_is_unfrozen_between_steps_learns_from_those_after(kind: str) -> None:
    found = []
    for cell in twins(kind):
        torch.manual_seed(1)
        x, bias = torch.randn(2, B, I), cell.bias_hh
        if bias is None:
            return
        bias.requires_grad_(False)
        state = cell(x[0])
        bias.requires_grad_(True)
        found.append(torch.autograd.grad(loop(cell, x[1:], state), [bias, cell.weight_hh]))
    assert_all_same(*found)


@every_kind
def test_an_input_of_another_size_than_in_forward_is_refused_in_backward(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = twins(kind)
    x, ran = torch.randn(B, I), []
    loss = loop(ours, [x])
    x.data = torch.zeros(B, I + 1)
    monkeypatch.setattr(kernel, "_run", lambda name, *given: ran.append(name))
    with pytest.raises(RuntimeError):
        loss.backward()
    assert not ran


def test_an_unknown_nonlinearity_is_refused_as_torch_refuses_it() -> None:
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: elu"):
        unrolled.RNNCell(I, H, nonlinearity="elu")(torch.zeros(I))


@every_kind
@pytest.mark.parametrize(
    "how", ["second derivative", "forward mode", "vmap", "per sample", "compile", "trace", "make_fx", "autocast"]
)
def test_who_watches_sees_what_torch_shows(kind: str, how: str) -> None:
    xs, state = torch.randn(2, B, I), start(kind, B)

    def answer(cell):
        def step(x):
            return parts(cell(x, state))

        if how == "second derivative":
            x = xs[0].clone().requires_grad_()
            first = torch.autograd.grad(loop(cell, [x, xs[1]], state), [x, *cell.parameters()], create_graph=True)
            return torch.autograd.grad(sum(g.square().sum() for g in first), [x, *cell.parameters()])
        if how == "forward mode":
            with forward_ad.dual_level():
                return [forward_ad.unpack_dual(part).tangent for part in step(forward_ad.make_dual(xs[0], xs[1]))]
        if how == "vmap":
            if type(cell) is nn.LSTMCell:  # which torch.vmap does not know
                return [torch.stack(part) for part in zip(*map(step, xs), strict=True)]
            return torch.vmap(step)(xs)
        if how == "func.grad":
            weights = dict(cell.named_parameters())
            return torch.func.grad(lambda w: loop(lambda *a: torch.func.functional_call(cell, w, a), xs, state))(
                weights
            ).values()
        if how == "compile":
            torch._dynamo.reset()
            return torch.compile(step, backend="eager", fullgraph=True)(xs[0])
        if how == "trace":
            return parts(torch.jit.trace(cell, (xs[0], state))(xs[1], state))
        if how == "make_fx":
            return make_fx(step)(xs[0])(xs[1])
        with torch.autocast("cpu", torch.bfloat16):
            return step(xs[0])

    theirs, ours = map(answer, twins(kind))
    assert_all_same(ours, theirs)


@every_kind
def test_scripted_and_symbolically_traced_it_answers(kind: str) -> None:
    theirs, ours = twins(kind)
    x = torch.randn(B, I)
    assert_all_same(parts(torch.jit.script(ours)(x)), parts(theirs(x)))
    traced = torch.fx.symbolic_trace(nn.Sequential(ours))
    assert_all_same(parts(traced(x)), parts(theirs(x)))


@every_kind
def test_elsewhere_and_in_other_dtypes_it_is_torch(kind: str) -> None:
    for how in ({"device": "meta"}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}):
        theirs, ours = twins(kind, **how)
        x = torch.ones(B, I, **how)
        for one, other in zip(parts(ours(x)), parts(theirs(x)), strict=True):
            assert (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
            assert one.is_meta or torch.equal(one, other)
    theirs, ours = twins(kind)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        xs = torch.ones(T, B, I, dtype=torch.float32)
        assert_all_same(*(torch.autograd.grad(loop(c, xs), list(c.parameters())) for c in (ours, theirs)))
    finally:
        torch.set_default_dtype(before)
    with torch._subclasses.FakeTensorMode():
        fake = getattr(unrolled, KINDS[kind][0])(I, H)(torch.empty(B, I))
    assert parts(fake)[0].shape == (B, H)


@every_kind
def test_copied_pickled_and_loaded_with_weights_only_it_stays_itself(kind: str) -> None:
    _, ours = twins(kind)
    x = torch.randn(B, I)
    state = ours(x)  # a graph is alive
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=True)):
        assert type(copied) is type(ours)
        assert_all_same(parts(copied(x)), parts(state))


# ------------------------------------------------------------------------------------- one gradient of weights for all steps


@every_kind
def test_backward_may_run_again_and_through_a_part_of_the_steps(kind: str) -> None:
    found = []
    for cell in twins(kind):
        torch.manual_seed(1)
        xs, state, losses = torch.randn(T, B, I), None, []
        for x in xs:
            state = cell(x, state)
            losses.append(parts(state)[0].square().sum())
        losses[1].backward(retain_graph=True)
        losses[3].backward(retain_graph=True)
        losses[3].backward(retain_graph=True)
        torch.autograd.grad(losses[4], cell.weight_ih, retain_graph=True)
        (losses[2] + losses[4]).backward()
        cell(xs[0]) if kind != "lstm" else cell(xs[0])[1].sum().backward()
        found.append([p.grad for p in cell.parameters()])
    assert_all_same(*found)


@every_kind
def test_gradients_may_be_written_to_one_by_one(kind: str) -> None:
    """As somebody who clips or scales them does: no two share memory."""
    found = []
    for cell in twins(kind):
        torch.manual_seed(1)
        gradients = torch.autograd.grad(loop(cell, torch.randn(T, B, I)), list(cell.parameters()))
        found.append([gradient.mul_(0.5) for gradient in gradients])
    assert_all_same(*found)


@every_kind
def test_gradients_of_several_losses_at_once_are_those_of_torch(kind: str) -> None:
    found = []
    for cell in twins(kind):
        torch.manual_seed(1)
        xs, state = torch.randn(T, B, I, requires_grad=True), None
        for x in xs:
            state = cell(x, state)
        losses = parts(state)[0].sin().sum(1)
        found.append(torch.autograd.grad(losses, [xs, *cell.parameters()], torch.eye(B), is_grads_batched=True))
    assert_all_same(*found)


@every_kind
def test_passes_of_several_threads_through_one_graph_keep_apart(kind: str) -> None:
    _, ours = twins(kind)
    loss = loop(ours, torch.randn(T, B, I))
    expected, found = torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True), []

    def differentiate() -> None:
        for _ in range(20):
            found.append(torch.autograd.grad(loss, list(ours.parameters()), retain_graph=True))

    threads = [threading.Thread(target=differentiate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for gradients in found:
        assert_all_same(gradients, expected)


@pytest.mark.skipif(not library.available(), reason="the kernels were not built")
def test_a_backward_pass_that_is_broken_off_leaves_nothing_behind() -> None:
    _, ours = twins("gru")
    first = ours(torch.randn(B, I))
    after = ours(torch.randn(B, I), first)
    first.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        after.sum().backward()
    [of_all_steps] = kernel._alive.values()
    [first_pass] = of_all_steps.grad_fn.passes
    after = ours(torch.randn(B, I), after.detach())  # before the graph of before is gone
    del first
    gc.collect()
    seen = []
    after.grad_fn.register_hook(lambda *_: seen.extend(of_all_steps.grad_fn.passes))
    after.sum().backward()
    assert len(seen) == 1
    assert first_pass not in seen
    assert not of_all_steps.grad_fn.passes


@pytest.mark.skipif(not library.available(), reason="the kernels were not built")
def test_gradients_of_inputs_alone_leave_nothing_behind() -> None:
    _, ours = twins("gru")
    xs = torch.randn(T, B, I, requires_grad=True)
    loss = loop(ours, xs)
    [of_all_steps] = kernel._alive.values()
    for _ in range(3):
        torch.autograd.grad(loss, xs, retain_graph=True)
    assert of_all_steps.grad_fn.passes == {}
    del loss, of_all_steps
    assert not kernel._alive


def test_many_rows_are_summed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel._Sums, "ROWS", 2 * B)
    for kind in KINDS:
        theirs, ours = twins(kind)
        xs, state = torch.randn(T, B, I), start(kind, B)
        assert_all_same(gradients(ours, xs, state), gradients(theirs, xs, state))


@every_kind
def test_hooks_of_a_weight_see_its_whole_gradient_once(kind: str) -> None:
    _, ours = twins(kind)
    seen = []
    ours.weight_hh.register_hook(lambda gradient: seen.append(gradient.clone()))
    loop(ours, torch.randn(T, B, I)).backward()
    assert_all_same(seen, [ours.weight_hh.grad])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_loop_has_the_same_gradients(reentrant: bool) -> None:
    found = []
    for cell in twins("lstm"):
        torch.manual_seed(2)
        xs = torch.randn(T, B, I, requires_grad=True)
        inner = checkpoint(lambda part, cell=cell: loop(cell, part), xs[:3], use_reentrant=reentrant)
        (inner + loop(cell, xs[2:])).backward()
        found.append([xs.grad, *(p.grad for p in cell.parameters())])
    assert_all_same(*found)


@every_kind
def test_frozen_or_computed_weights_have_the_gradients_of_torch(kind: str) -> None:
    found = []
    for cell in twins(kind):
        torch.manual_seed(3)
        xs, state = torch.randn(T, B, I), start(kind, B)
        cell.weight_ih.requires_grad_(False)
        one = torch.autograd.grad(loop(cell, xs, state), cell.weight_hh)
        cell.weight_ih.requires_grad_(True)
        scale = torch.tensor(0.5, requires_grad=True)
        weights = {name: w * scale for name, w in cell.named_parameters()}
        other = torch.autograd.grad(loop(with_weights(cell, weights), xs, state), scale)
        found.append([*one, *other])
    assert_all_same(*found)


def test_writing_to_the_states_of_an_lstm_trains_as_with_torch() -> None:
    found = []
    for cell in twins("lstm"):
        torch.manual_seed(4)
        h, c = cell(torch.randn(B, I))
        (h.mul_(2).sum() + c.mul_(3).sum()).backward()
        found.append([p.grad for p in cell.parameters()])
    assert_all_same(*found)


@every_kind
def test_weights_written_to_before_backward_are_noticed(kind: str) -> None:
    for cell in twins(kind):
        loss = loop(cell, torch.randn(T, B, I))
        with torch.no_grad():
            cell.weight_hh.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@every_kind
def test_convert_swaps_cells_and_restore_gives_them_back(kind: str) -> None:
    theirs, ours = twins(kind)
    x, kept = torch.randn(B, I), theirs.weight_hh
    name = KINDS[kind][0]
    assert unrolled.convert(theirs).swapped == {"": f"torch.nn.{name} -> unrolled.{name}"}
    assert type(theirs) is type(ours)
    assert theirs.weight_hh is kept
    assert_all_same(parts(theirs(x)), parts(ours(x)))
    assert str(unrolled.convert(theirs)).startswith("No recurrent layer")
    assert unrolled.restore(theirs).swapped
    assert type(theirs) is getattr(nn, name)
