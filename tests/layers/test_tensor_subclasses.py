"""Weights of tensor subclasses that dispatch by themselves, as DTensor and quantized ones, are right by PyTorch's operators."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tolerance import assert_same
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.utils._pytree import tree_map

import unrolled

B, I, H = 3, 5, 7
LAYERS = {
    name: (getattr(unrolled, name), options)
    for name, options in {"LSTM": {}, "GRU": {"num_layers": 2}, "RNN": {}, "LSTMCell": {}, "GRUCell": {}, "RNNCell": {}}.items()
} | {"with options": (unrolled.LSTM, {"layer_norm": True, "zoneout": 0.1})}
every_layer = pytest.mark.parametrize("name", LAYERS)


class Quantized(torch.Tensor):
    """int8 and a scale, which every operator of PyTorch's own sees as the product of both."""

    numbers: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32, device="cpu")  # type: ignore[attr-defined]

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function.namespace != "aten":
            raise NotImplementedError(f"{function} of a Quantized")
        if function is torch.ops.aten.detach.default:
            return cls(args[0].numbers, args[0].scale)
        args, kwargs = tree_map(lambda t: t.whole() if isinstance(t, cls) else t, (args, kwargs or {}))
        return function(*args, **kwargs)

    def whole(self):
        return self.numbers.float() * self.scale


def made(name: str) -> tuple[Any, torch.Tensor]:
    make, options = LAYERS[name]
    layer = make(I, H, **options).eval()
    return layer, torch.randn(B, I) if isinstance(layer, nn.RNNCellBase) else torch.randn(4, B, I)


def replaced(layer: nn.Module, by) -> Any:
    layer = copy.deepcopy(layer)
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, by(parameter.detach()))
    return layer


def output(found) -> Any:
    while isinstance(found, tuple):
        found = found[0]
    return found


@every_layer
def test_quantized_weights_give_what_their_numbers_give(name: str) -> None:
    layer, x = made(name)
    packed = replaced(layer, lambda w: nn.Parameter(Quantized((w * 127).round().to(torch.int8), torch.tensor(1 / 127)), False))
    plain = replaced(layer, lambda w: nn.Parameter((w * 127).round().to(torch.int8).float() / 127, False))
    assert_same(output(packed(x)), output(plain(x)))
    if isinstance(layer, unrolled.layers.Recurrent):
        with torch.no_grad():
            assert_same(packed.step(x[0])[0], plain.step(x[0])[0])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory):
    store = Path(tmp_path_factory.mktemp("store")) / "file"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("place", [Replicate(), Shard(0)], ids=str)
@every_layer
def test_dtensors_give_what_their_numbers_give(name: str, place, mesh) -> None:
    layer, x = made(name)
    given: list[Any] = [x]
    if isinstance(layer, nn.RNNCellBase):  # torch.nn's zeros, which are no DTensors, would not go together with any
        given.append(torch.zeros(B, H) if name != "LSTMCell" else (torch.zeros(B, H), torch.zeros(B, H)))
    spread = replaced(layer, lambda w: nn.Parameter(distribute_tensor(w, mesh, [place])))
    found = output(spread(*tree_map(lambda t: distribute_tensor(t, mesh, [Replicate()]), given)))
    expected = output(layer(*given))
    assert_same(found.full_tensor(), expected)
    gradients: list[Any] = [torch.autograd.grad(o.sum(), list(m.parameters())) for o, m in ((found, spread), (expected, layer))]
    for ours, wanted in zip(*gradients, strict=True):
        assert_same(ours.full_tensor(), wanted)
