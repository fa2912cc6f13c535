"""No memory is read that a tensor no longer has: weights whose storage was freed or made smaller, as FSDP does, are refused."""

import pytest
import torch
from torch import Tensor, nn

import unrolled
from unrolled.kernels import context, library
from unrolled.kernels.linear import linear
from unrolled.streaming import Streamer

B, I, H = 2, 3, 7
pytestmark = pytest.mark.skipif(not library.available(), reason="the kernels were not built")
USES = {
    "a sequence": lambda kind: (getattr(unrolled, kind)(I, H), lambda m: m(torch.randn(5, B, I))),
    "a sequence in training": lambda kind: (
        getattr(unrolled, kind)(I, H),
        lambda m: m(torch.randn(5, B, I))[0].sum().backward(),
    ),
    "a call of one step": lambda kind: (getattr(unrolled, kind)(I, H), lambda m: m(torch.randn(1, B, I))),
    "a step": lambda kind: (getattr(unrolled, kind)(I, H), lambda m: m.step(torch.randn(B, I))),
    "a layer with options": lambda kind: (getattr(unrolled, kind)(I, H, zoneout=0.1), lambda m: m(torch.randn(5, B, I))),
    "a cell": lambda kind: (getattr(unrolled, f"{kind}Cell")(I, H), lambda m: m(torch.randn(B, I))),
    "a streamer": lambda kind: (getattr(unrolled, kind)(I, H), Streamer),
}


def weight_of(module: nn.Module) -> Tensor:
    return next(parameter for name, parameter in module.named_parameters() if name.startswith("weight_hh"))


@pytest.mark.parametrize("nbytes", [0, 16])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_weight_without_its_memory_is_refused_wherever_it_is_read(kind: str, use: str, nbytes: int) -> None:
    module, run = USES[use](kind)
    grad = use == "a sequence in training"
    with torch.set_grad_enabled(grad):
        run(module)
        weight_of(module).untyped_storage().resize_(nbytes)
        with pytest.raises(
            (ValueError, RuntimeError), match=rf"got a storage of {nbytes} bytes|setStorage"
        ):  # ours, or torch's
            run(module)


def test_a_weight_freed_between_forward_and_backward_is_refused() -> None:
    layer = unrolled.GRU(I, H)
    loss = layer(torch.randn(5, B, I))[0].sum()
    layer.weight_hh_l0.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"expected w_hh of 588 bytes, .* got a storage of 0 bytes"):
        loss.backward()


@pytest.mark.parametrize("change", [lambda t: t[:1, :1].clone(), Tensor.double], ids=["smaller", "double"])
@pytest.mark.parametrize("save", ["gates", "outputs"])
def test_an_input_of_another_size_than_in_forward_is_refused_in_backward(save: str, change) -> None:
    x = torch.randn(5, B, I)
    loss = unrolled.LSTM(I, H, save=save)(x)[0].sum()
    x.data = change(x)
    with pytest.raises(ValueError, match=r"expected (x|output|lengths) of"):
        loss.backward()


def test_gradients_and_outputs_of_other_sizes_are_refused_by_the_backward_operator() -> None:
    x, w_ih, w_hh = torch.randn(5, B, I), torch.randn(3 * H, I), torch.randn(3 * H, H)
    inputs = (x, None, None, None, None, w_ih, w_hh, None, None, None, None)
    output, cs, h_n, _, gates = torch.ops.unrolled.sequence(*inputs, None, "GRU", False, True, True)
    how = "GRU", False, [True] * 8, False
    for d_out, d_h_n, h in ((output[:2], h_n, output), (output, h_n[:1], output), (output, h_n, output[:2])):
        with pytest.raises(ValueError, match=r"expected (an incoming gradient|output) of shape"):
            torch.ops.unrolled.sequence_backward(d_out, None, d_h_n, None, *inputs, h, cs, gates, *how)


def test_a_product_with_a_freed_weight_is_refused() -> None:
    x, w = torch.randn(4096, 64), torch.randn(64, 64)
    w.untyped_storage().resize_(16)
    with pytest.raises((ValueError, RuntimeError), match=r"got a storage of 16 bytes|setStorage"):
        linear(x, w)


def test_part_of_a_storage_counts_from_where_it_begins() -> None:
    whole = torch.zeros(10)
    end = whole[6:]
    assert not context.freed([whole, end])
    whole.untyped_storage().resize_(36)
    assert context.freed([whole])
    assert context.freed([end])
    assert not context.freed([whole[:5], whole[5:9]])
