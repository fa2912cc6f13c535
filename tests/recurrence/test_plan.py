"""One table says who computes a call, and each backend says why it cannot."""

import pytest
import torch

import unrolled
from unrolled.recurrence import arguments, plan

T, B, I, H = 5, 3, 4, 7


def chosen(layer, x, *args, **more) -> str:
    call, _ = arguments.checked(layer, x, *args, **more)
    return next(backend.name for backend in plan.BACKENDS if backend.refuses(call) is None)


def test_each_call_goes_to_who_can_have_it() -> None:
    x, gru = torch.randn(T, B, I), unrolled.GRU(I, H, num_layers=2, dropout=0.5).eval()
    with torch.no_grad():
        assert chosen(gru, x) == "compiled kernels"
        assert chosen(gru, x[:1]) == "single step"
        assert chosen(gru.train(), x[:1]) == "compiled kernels"  # dropout
        gru.eval()
        assert chosen(gru, x[:1], lengths=torch.tensor([1, 0, 1])) == "compiled kernels"
        assert chosen(gru, x[:1], torch.zeros(2, B, H)) == "single step"
        with torch.autocast("cpu", torch.bfloat16):
            assert chosen(gru, x[:1]) == "compiled kernels"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            assert chosen(gru, x[:1]) == "compiled kernels"
        assert chosen(unrolled.GRU(I, H, bidirectional=True), x[:1]) == "compiled kernels"
        assert chosen(unrolled.GRU(I, H, layer_norm=True), x) == "regularised kernels"
        assert chosen(unrolled.GRU(I, H, recurrent_dropout=0.5).eval(), x) == "compiled kernels"
        assert chosen(unrolled.LSTM(I, H, proj_size=3), x) == "torch, layer by layer"
        assert chosen(unrolled.LSTM(I, H, 2, proj_size=3), x) == "torch, whole stack"
        assert chosen(unrolled.LSTM(I, H, 2, proj_size=3, zoneout=0.1), x) == "definition"
    assert chosen(gru, x[:1]) == "compiled kernels"  # gradients


@pytest.mark.parametrize("steps", [1, T, "step"])
@pytest.mark.parametrize("state", [torch.float64, torch.float16, "meta"], ids=str)
@pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}, {"layer_norm": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_of_another_dtype_or_device_is_refused_however_many_steps(steps, state, options: dict, dtype) -> None:
    layer = unrolled.GRU(I, H, dtype=dtype, **options).eval()
    h0, x = torch.zeros(1, B, H, dtype=dtype), torch.zeros(1 if steps == "step" else steps, B, I, dtype=dtype)
    run = (lambda h: layer.step(x[0], h)) if steps == "step" else (lambda h: layer(x, h))
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            run(h0)  # a fast path that has served before is as strict
            with pytest.raises(ValueError, match=r"GRU expected h0 o[fn]"):
                run(h0.to(state))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_states_without_gradients_can_be_detached_in_place(kind: str) -> None:
    """As loops over chunks like to: no state is a view, which could not be."""
    for batch_first in (False, True):
        with torch.no_grad():
            _, state = getattr(unrolled, kind)(I, H, batch_first=batch_first)(torch.randn(B, B, I))
        for part in state if isinstance(state, tuple) else (state,):
            part.detach_()


def test_explain_prints_every_backend_with_its_reason(capsys: pytest.CaptureFixture) -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(5, I), torch.randn(2, I)])
    for x in (torch.randn(T, B, I), packed):
        unrolled.explain(unrolled.GRU(I, H, zoneout=0.5), x)
        lines = capsys.readouterr().out.splitlines()
        assert [line[:21].strip() for line in lines] == [backend.name for backend in plan.BACKENDS]
        assert lines[1].endswith("no: zoneout=0.5 changes what a step does")
        assert lines[2].endswith("  runs")
    with pytest.raises(TypeError, match=r"unrolled\.convert"):
        unrolled.explain(torch.nn.GRU(I, H), x)
