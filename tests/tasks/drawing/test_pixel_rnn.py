"""PixelRNN: nothing sees what comes after it, probabilities are probabilities, and drawing is the network that was trained."""

import itertools

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, pad

from unrolled.cells import lstm_from_gates
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
@pytest.mark.parametrize("images", IMAGES)
def test_probabilities_of_all_images_sum_to_one(kind: str, images: str) -> None:
    height, width = {"black and white": (2, 3), "grey": (2, 2), "colour": (1, 2)}[images]
    model = model_of(kind, images, height, width)
    size = model.shape[0] * height * width
    every = torch.cartesian_prod(*[torch.arange(model.levels)] * size).reshape(-1, *model.shape)
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


def test_its_tensors_are_known_without_its_memory(model: PixelRNN) -> None:
    channels, height, width = model.shape
    kind = "row_lstm" if isinstance(model.layers[0], RowLSTM) else "diagonal_bilstm"
    described = blueprint(lambda: PixelRNN(kind, channels, height, width, model.levels, 4 * channels, 2))  # type: ignore[arg-type]
    assert {name: t.shape for name, t in described.items()} == {name: t.shape for name, t in model.state_dict().items()}


def test_channels_that_cannot_share_the_units_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_size=4 for 3 channels\. Take a multiple of 3"):
        PixelRNN("row_lstm", 3, 2, 2, 256, hidden_size=4)


# --------------------------------------------------------------------------------- the paper's equations, as they stand


def test_the_row_lstm_is_the_papers(  # eq. 3 over rows: one-dimensional convolutions of states and of inputs
) -> None:
    torch.manual_seed(0)
    layer, x = RowLSTM(6, 5, channels=1).double(), torch.randn(4, 3, 2, 6, dtype=torch.float64)
    w_ih, w_hh, b_ih, b_hh = layer.lstm.all_weights[0]
    left, right, x_left, x_here = w_ih.split([5, 5, 6, 6], 1)
    k_ss, k_is = torch.stack([left, w_hh, right], -1), torch.stack([x_left, x_here, torch.zeros_like(x_here)], -1)
    h = c = torch.zeros(2, 5, 3, dtype=torch.float64)  # (B, H, width)
    for row, got in zip(x.permute(0, 2, 3, 1), layer(x), strict=True):
        gates = conv1d(h, k_ss, padding=1) + conv1d(row, k_is, b_ih + b_hh, padding=1)
        h, c = (part.mT for part in lstm_from_gates(gates.mT, c.mT))
        assert_same(got, h.permute(2, 0, 1))


def test_the_diagonal_bilstm_is_the_papers_on_a_skewed_map() -> None:
    torch.manual_seed(0)
    layer, x = DiagonalBiLSTM(6, 5, channels=1).double(), torch.randn(4, 3, 2, 6, dtype=torch.float64)
    image = x.permute(2, 3, 0, 1)  # (B, F, height, width)
    left, right = along_diagonals(layer.left, image), along_diagonals(layer.right, image.flip(3)).flip(3)
    expected = left + pad(right[:, :, :-1], (0, 0, 1, 0))  # the right one is moved down by a row
    assert_same(layer(x), expected.permute(2, 3, 0, 1))


def along_diagonals(lstm: torch.nn.Module, image: Tensor) -> Tensor:
    """Section 3.2: each row is moved right by one more; then a column of the skewed map is a step."""
    w_ih, w_hh, b_ih, b_hh = lstm.all_weights[0]  # type: ignore[index,union-attr]
    up, k_is = w_ih.split([5, 6], 1)
    k_ss = torch.stack([up, w_hh], -1)  # two high: the row above, and the row itself
    height, width = image.shape[2:]
    skewed = torch.stack([pad(image[:, :, i], (i, height - 1 - i)) for i in range(height)], 2)
    gates_of_x = conv2d(skewed, k_is[:, :, None, None], b_ih + b_hh)
    h = c = torch.zeros(len(image), 5, height, dtype=image.dtype)
    outputs = []
    for column in range(height + width - 1):
        gates = gates_of_x[..., column] + conv1d(pad(h, (1, 0)), k_ss)
        h, c = (part.mT for part in lstm_from_gates(gates.mT, c.mT))
        on_image = torch.tensor([0 <= column - i < width for i in range(height)])
        h, c = h * on_image, c * on_image  # beside the image states are zero
        outputs.append(h)
    skewed = torch.stack(outputs, -1)
    return torch.stack([skewed[:, :, i, i : i + width] for i in range(height)], 2)


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
