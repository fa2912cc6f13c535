"""Reading several objects one after another: the network beside its equations, what counts as read, and runs that do it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tasks.glimpse.conftest import TINY, squares
from tests.tolerance import assert_same
from torch.nn.functional import adaptive_avg_pool2d

from unrolled import tasks
from unrolled.cells import Weights, gru_cell, lstm_cell
from unrolled.errors import DataError
from unrolled.tasks.glimpse import data
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.generate import END, Glimpse, Look, Seen, looks
from unrolled.tasks.glimpse.loss import measure, training_loss
from unrolled.tasks.glimpse.model import Looked
from unrolled.tasks.glimpse.reader import COARSE, Reader
from unrolled.tasks.glimpse.retina import Retina
from unrolled.tasks.glimpse.sequences import NOTHING, beside, symbols_of, targets_of
from unrolled.tasks.glimpse.show import frames, sheet


def network(**settings) -> Reader:
    torch.manual_seed(0)
    model = Reader(Config(**{**TINY, "glimpses": 2, "objects": 2, **settings}), 1, 4).double()
    if model.policy is not None:  # its weights begin as zeros
        torch.nn.init.normal_(model.policy.weight)
    return model


def weights_of(cell: torch.nn.RNNCellBase) -> Weights:
    return Weights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)


@pytest.mark.parametrize("attention", ["hard", "soft", "random"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_pass_is_its_equations(cell: str, attention: str) -> None:
    model = network(cell=cell, attention=attention)
    images = torch.rand(5, 1, 15, 13, dtype=torch.float64)
    looked = model(images)
    assert looked.scores.shape == (6, 5, 4)  # two glimpses of each of two symbols and of END
    q = q_c = torch.tanh(model.context(torch.relu(model.coarse(adaptive_avg_pool2d(images, COARSE).flatten(1)))))
    h = h_c = torch.zeros_like(q)
    retina = Retina(images, TINY["glimpse_size"], TINY["scales"])
    for t, place in enumerate(looked.places):
        if model.policy is not None:
            assert_same(looked.means[t], torch.tanh(model.policy(q)))
        if looked.values is not None:
            assert_same(looked.values[t], model.baseline(q).squeeze(1))
        rho = retina.look(place, between=attention == "soft").flatten(1)
        g = torch.relu(model.what(torch.relu(model.pixels(rho)))) * torch.relu(model.where(place.clamp(-1, 1)))
        if cell == "lstm":
            h, h_c = lstm_cell(g, h, h_c, weights_of(model.reading))
            q, q_c = lstm_cell(h, q, q_c, weights_of(model.looking))
        elif cell == "gru":
            h = gru_cell(g, h, weights_of(model.reading))
            q = gru_cell(h, q, weights_of(model.looking))
        else:
            w = weights_of(model.reading)
            h = torch.relu(g @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh)
            w = weights_of(model.looking)
            q = torch.relu(h @ w.w_ih.T + w.b_ih + q @ w.w_hh.T + w.b_hh)
        assert_same(looked.scores[t], model.classify(h))


def test_what_it_says_comes_from_its_glimpses_alone() -> None:
    """Two images that differ where it never looks, placed by chance: only the policy may notice."""
    model = network(attention="random", glimpse_size=1, scales=1)
    one, other = torch.rand(2, 1, 1, 15, 13, dtype=torch.float64)
    seen = Retina(torch.arange(15 * 13.0).view(1, 1, 15, 13), 1).look
    places = model(one, generator=torch.Generator().manual_seed(0)).places
    for place in places:
        at = int(seen(place.float()).item())
        other[0, 0].view(-1)[at] = one[0, 0].view(-1)[at]
    said = [model(image, generator=torch.Generator().manual_seed(0)).scores for image in (one, other)]
    assert not torch.equal(one, other)
    assert torch.equal(*said)


def test_where_hard_attention_looks_is_taught_by_the_reward_alone() -> None:
    model = network()
    batch = {"images": torch.rand(6, 1, 15, 13).double(), "labels": torch.tensor([[0, 3, -1], [1, 2, 3]] * 3)}
    for weight in (0.0, 1.0):
        model.zero_grad()
        torch.manual_seed(2)
        training_loss(model, batch, Config(**{**TINY, "glimpses": 2, "objects": 2, "policy_weight": weight})).loss.backward()
        for name in ("coarse.weight", "context.weight", "looking.weight_ih", "policy.weight"):
            assert bool(model.get_parameter(name).grad.any()) == (weight > 0), name
        assert model.get_parameter("reading.weight_ih").grad.any()


def test_classes_are_read_as_characters_or_words_and_on_a_canvas_as_a_whole() -> None:
    assert symbols_of(["7", "42"], Config(objects=2)) == ["2", "4", "7"]
    assert symbols_of(["red car", "car"], Config(objects=2)) == ["car", "red"]
    assert symbols_of(["car", "42"], Config(objects=2, canvas=50)) == ["car", "42"]
    assert targets_of(["car", "42"], ["car", "42"], Config(objects=2, canvas=50), "x").tolist() == [[0, 2, -1], [1, 2, -1]]
    assert targets_of(["car", "red car"], ["car", "red"], Config(objects=2), "x").tolist() == [[0, 2, -1], [1, 0, 2]]
    with pytest.raises(DataError, match=re.escape("x: expected labels of at most 2 symbols (objects), got 3 in '123'.")):
        targets_of(["123"], ["1", "2", "3"], Config(objects=2), "x")
    with pytest.raises(DataError, match=re.escape("x: expected labels of the symbols 1, 2, got '3' in '13'.")):
        targets_of(["13"], ["1", "2"], Config(objects=2), "x")


def test_images_stand_side_by_side_and_are_to_be_read_from_left_to_right() -> None:
    images = np.arange(1, 7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 3), np.uint8)
    targets = targets_of(["1", "2", "3", "4", "5", "6"], ["1", "2", "3", "4", "5", "6"], Config(objects=3, canvas=10), "x")
    canvases, wanted, corners = beside(
        np.tile(images, (50, 1, 1, 1)), np.tile(targets, (50, 1)), 300, Config(objects=3, canvas=10), np.random.default_rng(0)
    )
    lengths = []
    for number, (canvas, own, where) in enumerate(zip(canvases[:, 0], wanted, corners, strict=True)):
        several = int((where[:, 0] != NOTHING).sum())
        assert own[several] == 6  # END
        assert (own[several + 1 :] == NOTHING).all()
        for symbol, (row, column) in zip(own[:several], where, strict=False):
            assert (canvas[row : row + 4, column : column + 3] == symbol + 1).all()
        assert np.count_nonzero(canvas) == several * 12  # none is upon another
        assert (np.diff(where[:several, 1]) >= 3).all()
        assert number % 6 in own[:several]
        lengths.append(several)
    assert np.bincount(lengths, minlength=4).tolist()[0] == 0
    assert min(np.bincount(lengths)[1:]) > 60
    assert {tuple(corner) for corner in corners[:, 0]} >= {(0, 0), (6, 7)}  # and it comes to the edges


def read_perfectly(targets: torch.Tensor, glimpses: int, symbols: int) -> torch.Tensor:
    """Scores (T, N, K) that say the targets after each glimpse, and behind END at random."""
    wanted = torch.where(targets == NOTHING, torch.randint(symbols, targets.shape), targets)
    return 50 * torch.nn.functional.one_hot(wanted, symbols).double().transpose(0, 1).repeat_interleave(glimpses, 0)


class Said(torch.nn.Module):
    """A reader that says given scores."""

    attention = "hard"

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(scores)
        self.means = torch.nn.Parameter(scores.new_zeros(*scores.shape[:2], 2))

    def forward(self, images: torch.Tensor, **_) -> Looked:
        places = torch.ones_like(self.means)
        return Looked(self.scores, places, self.means, torch.full_like(places[..., 0], 0.3))


@pytest.mark.parametrize("every_glimpse", [False, True])
def test_what_is_said_behind_END_does_not_count(every_glimpse: bool) -> None:
    targets = torch.tensor([[0, 3, -1, -1], [1, 2, 0, 3], [2, 1, 3, -1]])
    scores = read_perfectly(targets, 2, 4)
    config = Config(**{**TINY, "glimpses": 2, "objects": 3, "samples": 0, "every_glimpse": every_glimpse})
    batch = {"images": torch.zeros(3, 1, 9, 7).double(), "labels": targets}
    right = Said(scores)
    step = training_loss(right, batch, config)
    assert step.report["accuracy"] == 1
    assert step.report["nats"] == pytest.approx(0, abs=1e-6)
    step.loss.backward()
    counted = (targets != NOTHING).T.repeat_interleave(2, 0)
    assert not right.scores.grad[~counted].any()
    assert torch.equal(right.means.grad.any(2), counted)  # REINFORCE neither
    images = np.zeros((3, 1, 9, 7), np.uint8)
    assert measure(right, images, targets.numpy(), config) == {"loss": pytest.approx(0), "accuracy": 1, "symbol_error_rate": 0}
    wrong = scores.clone()
    wrong[3, 1] = wrong[1, 1]  # reads 1, 1, 0 for 1, 2, 0: one of six symbols
    assert measure(Said(wrong), images, targets.numpy(), config)["symbol_error_rate"] == pytest.approx(1 / 6)
    assert measure(Said(wrong), images, targets.numpy(), config)["accuracy"] == pytest.approx(2 / 3)
    short = scores.clone()
    short[3, 1] = 50 * torch.eye(4)[3]  # stops after 1: two symbols are missing
    assert measure(Said(short), images, targets.numpy(), config)["symbol_error_rate"] == pytest.approx(2 / 6)


def test_a_reader_stops_at_END() -> None:
    numbers = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 1, 1]])  # after each symbol, of three images; END is 2
    probabilities = torch.nn.functional.one_hot(numbers.T.repeat_interleave(2, 0), 3).float() * 0.5
    found = looks(Seen(probabilities, torch.zeros(6, 3, 2)), torch.zeros(3, 1, 4, 4), ["a", "b"], ["x", "y", "z"], objects=2)
    assert [each.label for each in found] == ["a", "ba", "bbb"]
    assert [len(each.glimpses) for each in found] == [4, 6, 6]
    assert found[0].glimpses[-1].label == END
    assert [each.probability for each in found] == [0.25, 0.125, 0.125]


def test_pictures_of_what_was_read_sooner_end_sooner() -> None:
    first, second = (Look("x", np.zeros((1, 8, 8), np.float32), [Glimpse(4.0, 4.0, "a", 0.5)] * count) for count in (1, 3))
    shown = sheet([first, second], 2, 1)
    width, height = shown.width // 3, shown.height // 2
    colours = [shown.crop((column * width, 0, (column + 1) * width, height)).getcolors() for column in range(3)]
    assert [len(each) > 1 for each in colours] == [True, False, False]  # nothing but the ground
    assert len(frames([first, second], 2, 1)) == 3
    assert frames([first, second], 2, 1)[2].crop((0, 0, width, height)) == frames([first], 2, 1)[0].crop((0, 0, width, height))


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two columns of squares, dark or bright, with labels that say both."""
    path = tmp_path_factory.mktemp("texts") / "texts.npz"
    images, labels = squares(40)
    texts = [
        f"{'db'[left]}{'db'[right]}" if n % 3 else "db"[left]
        for n, (left, right) in enumerate(zip(labels, labels[::-1], strict=True))
    ]
    np.savez(path, images=np.concatenate([images, images[::-1]], axis=2), labels=np.array(texts))
    return path


def test_labels_that_are_texts_are_learned_and_read(command, text_file: Path, tmp_path: Path) -> None:
    tasks.train("glimpse", text_file, run=tmp_path / "run", objects=2, cell="lstm", **TINY)
    code, out, errors = command("evaluate", tmp_path / "run", text_file, "--json")
    assert code == 0, errors
    assert json.loads(out).keys() == {"loss", "accuracy", "symbol_error_rate", "images", "glimpses", "samples"}
    run = tasks.load(tmp_path / "run", samples=0)
    assert run.facts.classes == ["b", "d"]
    found = run.look(text_file)
    truth = np.load(text_file)["labels"]
    assert run.evaluate(text_file)["accuracy"] == pytest.approx(
        np.mean([one.label == text for one, text in zip(found, truth, strict=True)])
    )
    assert all(set(one.label) <= {"b", "d"} and len(one.label) <= 3 for one in found)
    code, out, _ = command("look", tmp_path / "run", text_file, "--json", "--samples", "0")
    assert [json.loads(line)["label"] for line in out.splitlines()] == [one.label for one in found]
    images, labels = np.load(text_file)["images"][:2], np.array(["bx", "d"])
    np.savez(tmp_path / "other.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=re.escape("expected labels of the symbols b, d, got 'x' in 'bx'.")):
        run.evaluate(tmp_path / "other.npz")
    with pytest.raises(DataError, match=re.escape("expected labels of at most 1 symbols (objects), got 2")):
        tasks.train("glimpse", text_file, run=tmp_path / "short", objects=1, **TINY)


def test_on_a_canvas_several_images_are_read(command, square_file: Path, tmp_path: Path) -> None:
    settings = {**TINY, "canvas": 20, "objects": 2, "clutter": 1, "clutter_size": 2, "attention": "soft"}
    tasks.train("glimpse", square_file, run=tmp_path / "run", **settings)
    run = tasks.load(tmp_path / "run")
    first, again = run.evaluate(square_file), run.evaluate(square_file)
    assert first == again
    np.savez(tmp_path / "two.npz", images=squares(2)[0])
    code, _, errors = command("look", tmp_path / "run", tmp_path / "two.npz", "--show", tmp_path / "pictures")
    assert code == 0, errors
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    said = f"{square_file}: expected images that fit, 2 of them side by side, on the canvas of 12 x 12 pixels, got 9 x 7."
    with pytest.raises(DataError, match=re.escape(said)):
        tasks.train("glimpse", square_file, run=tmp_path / "narrow", **{**settings, "canvas": 12})


def test_it_learns_to_read_and_to_stop() -> None:
    """One or two blocks on a canvas, of two kinds: by chance a sixth of them, and without the count a third."""
    torch.manual_seed(0)
    config = Config(
        objects=2, canvas=12, glimpses=1, glimpse_size=6, glimpse_features=32, hidden_size=32, cell="gru", attention="soft"
    )
    images = np.full((2, 1, 5, 5), 250, np.uint8)
    images[1, 0, 1:4, 1:4] = 0
    targets = targets_of(["full", "hollow"], ["full", "hollow"], config, "x")
    model, rng, right = Reader(config, 1, 3), np.random.default_rng(0), []
    adam = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        canvases, wanted, _ = beside(np.tile(images, (32, 1, 1, 1)), np.tile(targets, (32, 1)), 64, config, rng)
        step = training_loss(model, {"images": data.to_floats(canvases), "labels": torch.from_numpy(wanted)}, config)
        adam.zero_grad()
        step.loss.backward()
        adam.step()
        right.append(step.report["accuracy"])
    assert np.mean(right[-10:]) > 0.8
