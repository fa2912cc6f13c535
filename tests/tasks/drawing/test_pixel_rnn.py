"""PixelRNN: nothing sees what comes after it, probabilities are probabilities, and drawing is the network that was trained."""

import itertools
from math import prod

import pytest
import torch
from benchmarks.pixel_rnn import by_convolution
from tests.tolerance import assert_same
from torch import Tensor
from torch.nn.functional import pad

from unrolled.checkpoint import blueprint
from unrolled.tasks.drawing.image_lstm import DiagonalBiLSTM, RowLSTM
from unrolled.tasks.drawing.masks import centre_mask, masked_convolution
from unrolled.tasks.drawing.pixel_rnn import PixelRNN, value_at

KINDS = ("row_lstm", "diagonal_bilstm")
IMAGES = {"black and white": (1, 2), "grey": (1, 5), "colour": (3, 4)}  # channels, levels


def model_of(kind: str, images: str, height: int = 3, width: int = 4, layers: int = 2) -> PixelRNN:
    torch.manual_seed(3)
    channels, levels = IMAGES[images]
    model = PixelRNN(kind, channels, height, width, levels, hidden_size=4 * channels, num_layers=layers)  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for parameter in model.output.parameters():  # so that every value has a chance
        torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


def images_of(model: PixelRNN, count: int) -> Tensor:
    return torch.randint(model.levels, (count, *model.shape), generator=torch.Generator().manual_seed(5)).double()


@pytest.fixture(params=itertools.product(KINDS, IMAGES), ids="-".join)
def model(request: pytest.FixtureRequest) -> PixelRNN:
    return model_of(*request.param)


def test_a_value_depends_on_all_that_come_before_it_and_on_no_other(model: PixelRNN) -> None:
    images = images_of(model, 30).requires_grad_()  # of which some find the rectified units awake
    scores = model(images).sum((0, -1))
    order = (
        torch.arange(images[0].numel()).reshape(3, 4, model.shape[0]).permute(2, 0, 1)
    )  # of pixels, and channels within them
    for position in itertools.product(*map(range, model.shape)):
        (seen,) = torch.autograd.grad(scores[position], images, retain_graph=True)
        assert torch.equal((seen != 0).any(0), order < order[position])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("images", "size"),
    [("black and white", (2, 3)), ("black and white", (1, 1)), ("grey", (2, 2)), ("grey", (4, 1)), ("colour", (1, 2))],
)
def test_probabilities_of_all_images_sum_to_one(kind: str, images: str, size: tuple[int, int]) -> None:
    model = model_of(kind, images, *size)
    every = torch.cartesian_prod(*[torch.arange(model.levels)] * prod(model.shape)).reshape(-1, *model.shape)
    assert_same(model.log_likelihood(every).exp().sum(), torch.ones((), dtype=torch.float64))


def test_drawing_asks_for_the_probabilities_of_the_whole_pass(model: PixelRNN) -> None:
    images = images_of(model, 3)
    expected = model(images)
    with torch.no_grad():
        for (channel, row, column), scores in model.conditionals(pad(images, (3, 3, 3, 0))):
            assert_same(scores, expected[:, :, row, column][:, channel])


def test_values_are_drawn_with_their_probabilities(model: PixelRNN) -> None:
    scores = model(images_of(model, 1))[:, 0, 0, 0]
    uniform = torch.arange(0.5 / 4000, 1, 1 / 4000)
    drawn = value_at(scores.expand(4000, -1), uniform)
    expected = torch.cat([torch.zeros_like(scores), scores], -1) if model.levels == 2 else scores
    shares = torch.bincount(drawn.long(), minlength=model.levels) / 4000
    assert (shares - expected.softmax(-1)).abs().max() <= 1 / 4000


def test_a_seed_decides_what_is_drawn(model: PixelRNN) -> None:
    first, again, other = (model.sample(9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model.sample(4, torch.Generator().manual_seed(1)), first[:4])  # however many there are
    assert first.shape == (9, *model.shape)
    assert set(first.unique().tolist()) <= set(range(model.levels))


def test_completing_keeps_what_is_known_and_draws_the_rest(model: PixelRNN) -> None:
    given, known = images_of(model, 1), torch.zeros(model.shape, dtype=torch.bool)
    known[:, :2, 1:] = True
    drawn = model.sample(300, torch.Generator().manual_seed(1), given, known)
    assert torch.equal(drawn[:, known], given[:, known].expand(300, -1))
    assert (drawn[:, ~known] != drawn[0, ~known]).any(0).all()
    hidden = torch.where(known, given, 1 - given)  # what is not known has no influence
    assert torch.equal(model.sample(300, torch.Generator().manual_seed(1), hidden, known), drawn)


def test_a_known_image_comes_back_whole(model: PixelRNN) -> None:
    given = images_of(model, 2)
    assert torch.equal(model.sample(2, None, given, torch.ones_like(given).bool()), given)


def test_given_without_known_is_refused(model: PixelRNN) -> None:
    with pytest.raises(ValueError, match="given and known together"):
        model.sample(1, given=torch.zeros(1, *model.shape))


def test_dropout_is_for_training_alone(model: PixelRNN) -> None:
    model.dropout, images = 0.5, images_of(model, 2)
    assert not torch.equal(model.log_likelihood(images), model.log_likelihood(images))
    model.eval()
    assert torch.equal(model.log_likelihood(images), model.log_likelihood(images))


def test_products_in_bf16_leave_the_sum_over_pixels_in_fp32(model: PixelRNN) -> None:
    images, model = images_of(model, 2).float(), model.float()
    expected = model.log_likelihood(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.log_likelihood(images)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert_same(found.bfloat16(), expected)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_its_tensors_are_known_without_its_memory(model: PixelRNN) -> None:
    channels, height, width = model.shape
    kind = "row_lstm" if isinstance(model.layers[0], RowLSTM) else "diagonal_bilstm"
    described = blueprint(lambda: PixelRNN(kind, channels, height, width, model.levels, 4 * channels, 2))  # type: ignore[arg-type]
    assert {name: t.shape for name, t in described.items()} == {name: t.shape for name, t in model.state_dict().items()}


def test_channels_that_cannot_share_the_units_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_size=4 for 3 channels\. Take a multiple of 3"):
        PixelRNN("row_lstm", 3, 2, 2, 256, hidden_size=4)


@pytest.mark.parametrize("layer", [RowLSTM, DiagonalBiLSTM])
@pytest.mark.parametrize("size", [(4, 3), (2, 5), (1, 3), (3, 1)])
def test_the_layers_are_the_papers_convolutions(layer: type[RowLSTM | DiagonalBiLSTM], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, x = layer(6, 5, channels=1).double(), torch.randn(*size, 2, 6, dtype=torch.float64)
    assert_same(ours(x), by_convolution(ours, x))


# ------------------------------------------------------------------------------------------------------------------ masks


def test_mask_b_lets_a_channel_see_itself_and_mask_a_does_not() -> None:
    assert centre_mask("A", 6, 3, 3).tolist() == [[0, 0, 0]] * 2 + [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2
    assert centre_mask("B", 3, 6, 3).tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1] * 6]


def test_training_does_not_wake_masked_weights() -> None:
    convolution = masked_convolution("A", 1, 2, 3, channels=1)
    optimizer = torch.optim.AdamW(convolution.parameters(), lr=0.1)
    for _ in range(3):
        convolution(torch.randn(1, 1, 4, 4)).sum().backward()
        optimizer.step()
    assert (convolution.weight != 0).sum() == 2 * 4
