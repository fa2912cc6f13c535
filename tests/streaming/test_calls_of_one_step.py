"""A call of the layer on a sequence of one step, without gradients, goes the way of `step`: only the clock may tell."""

import copy
import threading
import time

import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled.kernels import step as kernel
from unrolled.recurrence import plan


@pytest.fixture
def stepped(monkeypatch):
    """How often the kernel of single steps ran."""
    times, run = [], kernel.run
    monkeypatch.setattr(kernel, "run", lambda *given: times.append(1) or run(*given))
    return times


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_they_give_the_sequence(kind, layers, batch_first, stepped):
    layer = kind(4, 7, num_layers=layers, batch_first=batch_first)
    x, time = torch.randn(6, 3, 4), 1 if batch_first else 0
    whole, last = layer(x.transpose(0, time))
    with torch.no_grad():
        state = None
        for t in range(6):
            output, state = layer(x[t].unsqueeze(time), state)
            torch.testing.assert_close(output.select(time, 0), whole.select(time, t), rtol=1e-5, atol=1e-6)
            assert output.shape == (3, 1, 7) if batch_first else (1, 3, 7)
            batch_first or output.detach_()  # as loops over chunks like to; transposed outputs could never be
    assert len(stepped) == 6
    for one, other in zip(*(s if isinstance(s, tuple) else (s,) for s in (state, last)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        one.detach_()


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_only_steps_with_gradients_or_autocast_go_through_the_table_of_backends(kind, monkeypatch):
    layer, x_t, calls, compute = kind(4, 7), torch.randn(3, 4), [], plan.compute
    monkeypatch.setattr(plan, "compute", lambda call: calls.append(1) or compute(call))
    h_t, _ = layer.step(x_t)
    assert (h_t.requires_grad, len(calls)) == (True, 1)
    with torch.no_grad():
        for _ in range(2):
            assert_same(layer.step(x_t)[0], h_t.detach())
        assert len(calls) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.step(x_t)[0].dtype is torch.bfloat16
    assert len(calls) == 2


@pytest.mark.parametrize("how", ["data", "numpy", "in place", "replaced", "loaded", "functional"])
def test_changed_weights_are_seen(how, stepped):
    layer, x = unrolled.GRU(4, 7), torch.randn(1, 1, 4)
    other = unrolled.GRU(4, 7)
    with torch.no_grad():
        for _ in range(5):
            before = layer(x)[0]
        assert len(stepped) == 5
        if how == "data":
            layer.weight_hh_l0.data.copy_(other.weight_hh_l0)
            layer.bias_ih_l0.data.copy_(other.bias_ih_l0)
        elif how == "numpy":
            layer.weight_ih_l0.numpy()[:] += 1
        elif how == "in place":
            layer.weight_ih_l0.mul_(2)
        elif how == "replaced":
            layer.weight_ih_l0 = torch.nn.Parameter(layer.weight_ih_l0 * 2)
        elif how == "loaded":
            layer.load_state_dict(other.state_dict())
        weights = dict(other.named_parameters())
        call = (lambda: torch.func.functional_call(layer, weights, (x,))) if how == "functional" else lambda: layer(x)
        with torch.enable_grad():
            want = call()[0]
        assert not torch.allclose(want, before)
        for _ in range(5):
            torch.testing.assert_close(call()[0], want.detach(), rtol=1e-5, atol=1e-6)
        assert len(stepped) == 10


def test_weights_that_change_at_every_call_are_seen_at_every_call():
    layer, x = unrolled.GRU(4, 7), torch.randn(1, 1, 4)
    with torch.no_grad():
        for _ in range(50):
            layer.weight_hh_l0.data.add_(0.01)
            got = layer(x)[0]
            with torch.enable_grad():
                torch.testing.assert_close(got, layer(x)[0].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_calls_before_change_no_bit(kind):
    layer, x = kind(4, 7), torch.randn(1, 3, 4)
    fresh = copy.deepcopy(layer)
    with torch.no_grad():
        first = fresh(x)[0]
        for _ in range(3):
            layer(torch.randn(1, 2, 4))
        assert torch.equal(layer(x)[0], first)


def test_who_cannot_have_them_is_served_as_ever(stepped):
    x = torch.randn(1, 2, 4)
    twins = [unrolled.LSTM(4, 7, bidirectional=True), unrolled.LSTM(4, 7, proj_size=3), unrolled.GRU(4, 7, zoneout=0.1)]
    twins += [unrolled.GRU(4, 7, num_layers=2, dropout=0.5), unrolled.GRU(4, 7, layer_norm=True)]
    for layer in twins:
        for _ in range(4):
            torch.manual_seed(0)
            with torch.no_grad():
                got = layer(x)[0]
            torch.manual_seed(0)
            want = layer(x)[0].detach()
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            if not layer.bidirectional:
                torch.manual_seed(0)
                with torch.no_grad():
                    torch.testing.assert_close(layer.step(x[0])[0], want[0], rtol=1e-5, atol=1e-6)
    assert not stepped


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_lengths_and_resets_of_one_step_are_heeded(kind):
    layer, x, h = kind(4, 7), torch.randn(1, 2, 4), torch.randn(1, 2, 7)
    state = (h, h) if kind is unrolled.LSTM else h
    for masks in ({"lengths": torch.tensor([0, 1])}, {"resets": torch.tensor([[True, False]])}):
        with torch.no_grad():
            got = layer(x, state, **masks)[0]
        assert_same(got, layer(x, state, **masks)[0].detach())
        assert not torch.allclose(got, layer(x, state)[0])


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_layers_without_biases_have_steps_too(kind, stepped):
    layer, x = kind(4, 7, num_layers=2, bias=False), torch.randn(1, 2, 4)
    with torch.no_grad():
        got = layer(x)[0], layer.step(x[0])[0][None]
    assert len(stepped) == 2
    for one in got:
        assert_same(one, layer(x)[0].detach())


@pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
def test_a_step_refuses_a_state_of_another_cell(kind):
    layer, x, h = kind(4, 7), torch.randn(2, 4), torch.randn(1, 2, 7)
    for state in ((h,), (h, h, h)) if kind is unrolled.LSTM else ((h, h), (h, h, h)):
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients), pytest.raises((RuntimeError, ValueError), match="expected"):
                layer.step(x, state)


def test_wrong_states_and_inputs_are_told_in_the_same_words():
    layer, x = unrolled.LSTM(4, 7), torch.randn(1, 2, 4)
    state = torch.zeros(1, 2, 7), torch.zeros(1, 2, 7)
    wrong = [((x[..., :3],), {}), ((x.double(),), {}), ((x, state[0]), {}), ((x, (state[0], state[1][:, :1])), {})]
    wrong += [((x, (*state, state[0])), {}), ((x.to_sparse(),), {}), ((torch.nested.nested_tensor([x[0]]),), {})]
    for arguments, named in wrong:
        errors = []
        for gradients in (False, False, False, True):
            with torch.set_grad_enabled(gradients), pytest.raises((RuntimeError, ValueError)) as caught:
                layer(*arguments, **named)
            errors.append((caught.type, str(caught.value)))
        assert len(set(errors)) == 1
        with torch.no_grad():
            layer(x, state)


def test_threads_may_share_a_layer_whose_weights_change():
    layer, x = unrolled.LSTM(8, 32), torch.randn(1, 1, 8)
    stop, failed = threading.Event(), []

    def serve():
        with torch.no_grad():
            while not stop.is_set():
                if not layer(x)[0].isfinite().all():
                    failed.append(1)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    with torch.no_grad():
        for _ in range(300):
            layer.weight_hh_l0.data.mul_(0.999)
            time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_weight_that_is_no_number_shows_in_a_step_from_zeros(kind, stepped):
    layer, theirs, x = getattr(unrolled, kind)(4, 7), getattr(torch.nn, kind)(4, 7), torch.randn(1, 3, 4)
    with torch.no_grad():
        layer.weight_hh_l0[5, 2] = float("nan")
        theirs.load_state_dict(layer.state_dict())
        expected = theirs(x)[0].isnan()
        assert expected.any()
        assert torch.equal(layer(x)[0].isnan(), expected)
        assert torch.equal(layer.step(x[0])[0].isnan(), expected[0])
    assert len(stepped) == 2
