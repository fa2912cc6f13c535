"""Somebody's model keeps its weights, its answers and its ways when its layers become ours, and when they go back."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_sequence

import unrolled
from tolerance import assert_same

T, B, WIDTH, H = 5, 3, 4, 7
LAYERS = {
    "rnn": lambda: nn.RNN(WIDTH, H),
    "relu": lambda: nn.RNN(WIDTH, H, 2, "relu", bidirectional=True),
    "lstm": lambda: nn.LSTM(WIDTH, H, 2, batch_first=True, dropout=0.5),
    "projected": lambda: nn.LSTM(WIDTH, H, proj_size=3, bidirectional=True),
    "gru": lambda: nn.GRU(WIDTH, H, 2, bias=False),
}


def flat(result) -> list[torch.Tensor]:
    output, state = result
    output = output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output
    return [output, *(state if isinstance(state, tuple) else (state,))]


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDTH)
        self.encoder = nn.LSTM(WIDTH, H, bidirectional=True)
        self.blocks = nn.ModuleList([nn.GRU(2 * H, H), nn.RNN(H, H)])
        self.decoder = nn.Linear(H, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, _ = self.encoder(self.embedding(tokens))
        for block in self.blocks:
            x, _ = block(x)
        return self.decoder(x)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_keeps_its_answers_there_and_back(kind: str) -> None:
    layer = LAYERS[kind]().double().eval()
    x = torch.randn(B, T, WIDTH, dtype=torch.float64)
    packed = pack_sequence([torch.randn(n, WIDTH, dtype=torch.float64) for n in (2, 4, 3)], enforce_sorted=False)
    expected, described, theirs = flat(layer(x)) + flat(layer(packed)), repr(layer), type(layer)
    report = unrolled.convert(layer)
    assert report.model is layer
    assert report.swapped == {"": f"torch.nn.{theirs.__name__} -> unrolled.{theirs.__name__}"}
    assert type(layer) is getattr(unrolled, theirs.__name__)
    assert repr(layer) == described
    for got, want in zip(flat(layer(x)) + flat(layer(packed)), expected, strict=True):
        assert_same(got, want)
    assert unrolled.restore(layer).swapped
    assert type(layer) is theirs
    for got, want in zip(flat(layer(x)) + flat(layer(packed)), expected, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_swapped_layer_is_like_one_made_new(kind: str) -> None:
    layer = LAYERS[kind]()
    unrolled.convert(layer)
    assert vars(layer).keys() == vars(unrolled.LSTM(1, 2)).keys() | ({"nonlinearity"} & vars(layer).keys())
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to(torch.float64)):
        assert [name for name, _ in copied.named_parameters()] == [name for name, _ in layer.named_parameters()]
        assert [len(weights) for weights in copied.all_weights] == [len(weights) for weights in layer.all_weights]
    unrolled.restore(layer)
    assert vars(layer).keys() == vars(LAYERS[kind]()).keys()
    assert all(one is other for one, other in zip(layer._flat_weights, dict(layer.named_parameters()).values(), strict=True))


def test_every_layer_of_a_model_is_swapped_and_named() -> None:
    model, tokens = Tagger(), torch.randint(11, (T, B))
    expected, names = model(tokens), list(model.state_dict())
    report = unrolled.convert(model)
    assert str(report).splitlines() == [
        "Swapped 3, left 0 as they were.",
        "  encoder: torch.nn.LSTM -> unrolled.LSTM",
        "  blocks.0: torch.nn.GRU -> unrolled.GRU",
        "  blocks.1: torch.nn.RNN -> unrolled.RNN",
    ]
    assert not any(isinstance(module, nn.RNNBase) for module in model.modules())
    assert_same(model(tokens), expected)
    assert list(model.state_dict()) == names
    assert unrolled.restore(model).swapped.keys() == report.swapped.keys()
    assert_same(model(tokens), expected)


def test_training_goes_on_where_it_was() -> None:
    """The optimizer made before holds the same parameters: its steps and moments go on."""
    torch.manual_seed(1)
    model, tokens = Tagger(), torch.randint(11, (T, B))
    twin = copy.deepcopy(model)
    for one, swapped in ((model, True), (twin, False)):
        optimizer = torch.optim.Adam(one.parameters())
        for step in range(4):
            if swapped and step in (1, 3):
                (unrolled.convert if step == 1 else unrolled.restore)(one)
            optimizer.zero_grad()
            one(tokens).square().mean().backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert_same(ours, theirs)


def test_mode_frozen_weights_hooks_and_references_stay() -> None:
    model = Tagger().eval()
    model.encoder.weight_hh_l0.requires_grad_(False)
    model.encoder.note = "mine"
    held, parameters, seen = model.encoder, list(model.parameters()), []
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    model.encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    unrolled.convert(model)
    model(torch.randint(11, (T, B)))
    assert held is model.encoder
    assert seen == [unrolled.LSTM]
    assert not held.training
    assert held.note == "mine"
    assert not held.weight_hh_l0.requires_grad
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_no_random_number_is_drawn_and_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.LSTM(WIDTH, H, dropout=0.5)
    random = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unrolled.convert(model)
        unrolled.restore(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.dropout == 0.5


def test_a_layer_at_two_places_is_swapped_once_and_stays_one() -> None:
    model = nn.Module()
    model.first = model.second = nn.GRU(WIDTH, H)
    report = unrolled.convert(model)
    assert model.first is model.second
    assert isinstance(model.first, unrolled.GRU)
    assert list(report.swapped) == ["first", "second"]


def test_what_is_not_exactly_a_layer_is_named_and_left() -> None:
    class Custom(nn.LSTM):
        pass

    class OwnCell(nn.RNNCellBase):
        pass

    model = nn.ModuleDict(
        {
            "subclass": Custom(WIDTH, H),
            "parametrized": parametrizations.weight_norm(nn.GRU(WIDTH, H), "weight_hh_l0"),
            "pruned": prune.random_unstructured(nn.LSTM(WIDTH, H), "weight_ih_l0", 0.5),
            "one": nn.LSTM(WIDTH, H),
            "other": nn.LSTM(WIDTH, H),
            "itself": nn.RNN(H, H),
            "patched": nn.GRU(WIDTH, H),
            "more": nn.GRU(WIDTH, H),
            "step": OwnCell(WIDTH, H, True, 1),
            "fine": nn.LSTM(WIDTH, H),
        }
    )
    model["other"].weight_hh_l0 = model["one"].weight_hh_l0
    model["itself"].weight_hh_l0 = model["itself"].weight_ih_l0
    model["patched"].forward = lambda *_: None
    model["more"].register_buffer("scale", torch.ones(1))
    kinds = {name: type(module) for name, module in model.items()}
    report = unrolled.convert(model)
    assert list(report.swapped) == ["fine"]
    for name, text in {
        "subclass": "a subclass, Custom",
        "parametrized": "weight_hh_l0 parametrized",
        "pruned": "weight_ih_l0 computed from other tensors",
        "one": "one.weight_hh_l0 and other.weight_hh_l0 are tied",
        "other": "one.weight_hh_l0 and other.weight_hh_l0 are tied",
        "itself": "itself.weight_ih_l0 and itself.weight_hh_l0 are tied",
        "patched": "forward was replaced",
        "more": "scale added",
        "step": "a cell of its own, OwnCell",
    }.items():
        assert text in report.left[name]
        assert type(model[name]) is kinds[name]
        assert f"  {name}: left, {report.left[name]}" in str(report)
    assert len(report.left) == 9


def test_old_weight_norm_is_named_and_left() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.utils.weight_norm(nn.LSTM(WIDTH, H), "weight_hh_l0")
    assert "weight_hh_l0 computed from other tensors" in unrolled.convert(model).left[""]


def test_quantized_and_scripted_layers_are_named_and_left() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.GRU(WIDTH, H)))
    assert unrolled.convert(scripted).left == {"0": "a TorchScript GRU"}
    if "fbgemm" in torch.backends.quantized.supported_engines:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(WIDTH, H)), {nn.LSTM})
        assert unrolled.convert(quantized).left == {"0": "a quantized LSTM"}


def test_nothing_to_swap_says_so() -> None:
    assert str(unrolled.convert(nn.Linear(2, 3))) == "No recurrent layer to swap in Linear."
    model = Tagger()
    unrolled.convert(model)
    assert str(unrolled.convert(model)) == "No recurrent layer to swap in Tagger."
    unrolled.restore(model)
    assert str(unrolled.restore(model)) == "No recurrent layer to swap in Tagger."


def test_an_option_that_torch_lacks_stays_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = unrolled.GRU.__init__

    def with_option(self, *arguments, zoneout: float = 0.0, **options) -> None:
        plain(self, *arguments, **options)
        self.zoneout = zoneout

    monkeypatch.setattr(unrolled.GRU, "__init__", with_option)
    model = nn.Sequential(unrolled.GRU(WIDTH, H, zoneout=0.25), unrolled.GRU(WIDTH, H))
    report = unrolled.restore(model)
    assert report.left == {"0": "zoneout=0.25 is not in torch.nn.GRU"}
    assert list(report.swapped) == ["1"]
    unrolled.convert(model)
    assert model[1].zoneout == 0.0


@pytest.mark.parametrize("swap", [unrolled.convert, unrolled.restore])
def test_only_modules_are_taken(swap) -> None:
    with pytest.raises(TypeError, match=f"{swap.__name__} expected a torch.nn.Module, got {{}} of type dict"):
        swap({})
    assert callable(unrolled.convert)
