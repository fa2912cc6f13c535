"""A unit that keeps track of something is found; one that does so by chance is not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unrolled import RNN, errors, tasks
from unrolled.data import sources, tokenizers
from unrolled.data.token_streams import encode_documents
from unrolled.errors import DataError
from unrolled.inspection import text_properties, units
from unrolled.task import Activations
from unrolled.tasks.language_model import activations

H, LATCH = 9, 4


def quoted_text(sentences: int = 120) -> str:
    """Prose of made-up words, of which some sentences are speech."""
    random = np.random.default_rng(0)
    words = lambda: " ".join("".join(random.choice(list("abcdefgh"), random.integers(2, 7))) for _ in range(7))  # noqa: E731
    return "".join(f"“{words()}” " if random.random() < 0.4 else f"{words()}. " for _ in range(sentences))


def read_by_hand_made_network(text: str, latch: bool) -> Activations:
    """A vanilla RNN of random weights; if asked, one of its units goes to 1 at “, to -1 at ”, and keeps what it is."""
    characters = sorted(set(text))
    layer = RNN(len(characters), H)
    with torch.no_grad():
        if latch:
            for name, parameter in layer.named_parameters():
                parameter[LATCH] = 0
                if name == "weight_hh_l0":
                    parameter[LATCH, LATCH] = 3
            layer.weight_ih_l0[LATCH, characters.index("“")] = 9
            layer.weight_ih_l0[LATCH, characters.index("”")] = -9
        ids = torch.tensor([characters.index(character) for character in text])
        [state] = layer.states(ids[:, None])
    return Activations(list(text), {"l0": state.h[:, 0]})


def quotes(activations: Activations, seed: int = 0) -> units.Property:
    return next(one for one in units.find(activations, seed=seed) if one.name == "inside quotes")


def test_a_hand_made_unit_that_is_1_inside_quotes_is_found() -> None:
    found = quotes(read_by_hand_made_network(quoted_text(), latch=True))
    assert found.tracked_by[0].unit == found.best.unit == f"l0.{LATCH}"
    assert found.best.score > 0.9
    assert found.control < 0.6


def test_no_unit_of_a_random_network_is_found_inside_quotes() -> None:
    """Which closes its eyes at the quotes: nothing of them reaches it."""
    text = quoted_text()
    blind = read_by_hand_made_network(text.replace("“", ".").replace("”", "."), latch=False)
    found = quotes(Activations(list(text), blind.units))
    assert not found.tracked_by
    assert found.best.score < found.control


def test_labels_without_a_cause_are_believed_of_no_unit_though_one_seems_to_fit() -> None:
    """Slow labels and slow units: on the half that finds it the best unit correlates, as one of sixty always will."""
    random = np.random.default_rng(1)
    slow = lambda: np.repeat(random.random(40) < 0.5, 50).astype(float)  # noqa: E731
    walks = torch.from_numpy(np.stack([slow() for _ in range(60)], 1)).float()
    labels = {f"label {n}": slow().tolist() for n in range(20)}
    found = units.find(Activations(["\n"] * 2000, {"l0": walks}), labels)
    assert len(found) == 20
    assert min(abs(one.best.found) for one in found) > 0.25, "the trap is there"
    assert not [one.name for one in found if one.tracked_by]


def test_a_given_label_is_found_by_the_unit_that_is_its_negative() -> None:
    labels = (torch.rand(800) < 0.3).float()
    values = torch.randn(800, 5)
    values[:, 3] = -labels
    [one] = units.find(Activations(["\n"] * 800, {"l0": values[:, :2], "l1": values[:, 2:]}), {"mine": labels.tolist()})
    assert [(each.unit, round(each.found, 5), round(each.score, 5)) for each in one.tracked_by] == [("l1.1", -1, 1)]
    assert round(one.best.correlation, 5) == -1


@pytest.mark.parametrize(("scale", "offset"), [(1e-7, 0.0), (1e30, 0.0), (1e308, 0.0), (1.0, 1.7e9)])
def test_neither_scale_nor_offset_of_labels_counts(scale: float, offset: float) -> None:
    labels = torch.rand(800, dtype=torch.float64)
    values = torch.cat([labels[:, None].float(), torch.randn(800, 2)], 1)
    [one] = units.find(Activations(["\n"] * 800, {"l0": values}), {"mine": (labels * scale + offset).tolist()})
    assert (one.best.unit, round(one.best.correlation, 4)) == ("l0.0", 1)


def test_labels_beyond_all_floats_are_refused() -> None:
    with pytest.raises(DataError, match="labels 'mine': expected a number for each of 800 tokens"):
        units.find(Activations(["\n"] * 800, {"l0": torch.randn(800, 2)}), {"mine": [10**400] * 800})


def test_a_shift_of_the_control_leaves_a_twentieth_on_either_side() -> None:
    shifts = units._shifts(1000, seed=3)
    assert len(shifts) == units.SHIFTS
    assert 50 <= min(shifts) < max(shifts) < 950


def test_a_unit_that_never_changes_correlates_with_nothing() -> None:
    values = torch.cat([torch.full((800, 1), 0.25), torch.randn(800, 1)], 1)
    [one] = units.find(Activations(["\n"] * 800, {"l0": values}), {"mine": (torch.rand(800) < 0.5).tolist()})
    assert one.best.unit == "l0.1"


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ('a "b\\"c" d', "inside quotes", [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]),
        ("don't 'do' it", "inside quotes", [0] * 6 + [1, 1, 1] + [0] * 4),
        ('"""a\n\n"b""" c', "inside quotes", [1] * 10 + [0] * 3),
        ('"a\n\nb "c"', "inside quotes", [0] * 6 + [1, 1, 0]),  # one that is never closed
        ("(a[{}])) (", "bracket depth", [1, 1, 2, 3, 2, 1, 0, 0, 0, 1]),
        ("  a b\n\tc\nd", "indentation", [1, 2, 2, 2, 2, 0, 8, 8, 0, 0]),
        ("ab\ncd", "position in line", [1, 2, 0, 1, 2]),
    ],
)
def test_what_could_be_tracked(text: str, name: str, values: list[int]) -> None:
    assert text_properties.properties(text)[name].tolist() == values


def test_what_is_after_a_keyword_ends_with_the_line() -> None:
    found = text_properties.properties("if ab\n" * 20 + "if not\n" + "no\n" * 19)
    assert [name for name in found if name.startswith("after")] == ['after "if"']
    assert found['after "if"'][:6].tolist() == [0, 1, 1, 1, 1, 0]


def test_a_property_that_is_the_same_throughout_is_left_out() -> None:
    assert set(text_properties.properties("abc")) == {"position in line"}
    assert text_properties.properties("") == {}


def test_the_text_is_coloured_from_the_least_to_the_largest(tmp_path: Path) -> None:
    values = torch.tensor([[-0.5], [0.0], [0.5]])
    activations = Activations(["a", "<", "c"], {"l0": values})
    page = units.draw_text(tmp_path / "new" / "l0.0.html", activations, "0").read_text()
    for piece, label in (("a", "-0.50"), ("&lt;", "+0.00"), ("c", "+0.50")):
        assert f'title="{label}">{piece}</span>' in page
    assert "<title>Unit 0</title>" in page
    picture = Image.open(units.draw_text(tmp_path / "l0.0.png", activations, "l0.0")).convert("RGB")
    assert {(0xB3, 0x58, 0x06), (0x54, 0x27, 0x88)} <= {colour for _, colour in picture.getcolors(1 << 24) or []}


@pytest.mark.parametrize("unit", ["char", "byte", "word", "bpe"])
def test_pieces_are_the_text_token_by_token(unit: str, tmp_path: Path) -> None:
    text = "Größe für 3 Kühe,\nund „mehr“ davon.\n" * 9
    for name in ("one", "two"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    documents = sources.find([str(tmp_path / "one"), str(tmp_path / "two")], binary=unit == "byte")
    tokenizer = tokenizers.learn(unit, documents, 300)
    ids = np.concatenate([*encode_documents(documents, tokenizer)])
    assert int((ids == tokenizer.end).sum()) == 2
    pieces = activations.pieces(ids, tokenizer)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(int(i) for i in ids)
    values = units.of_pieces(pieces)["position in line"]
    assert values[[n for n, piece in enumerate(pieces) if piece.endswith("\n")]].tolist() == [0] * 36


class TestTheCommand:
    def test_scores_pictures_and_numbers(self, command: Callable, trained: Path, real_text: Path, tmp_path: Path) -> None:
        code, out, err = command("inspect", "units", trained, real_text, "--unit", "3", "--show", tmp_path / "seen", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert {"indentation", "position in line", "bracket depth", "inside quotes"} <= set(found["properties"])
        assert json.loads((tmp_path / "seen" / "units.json").read_text()).items() <= found.items()
        for name in ("l0.3.html", "l0.3.png", "units.png", "units.svg"):
            assert (tmp_path / "seen" / name).stat().st_size > 500
        code, out, _ = command("inspect", "units", trained, real_text, "--show", tmp_path / "seen")
        assert code == 0
        assert out.startswith(found["sentence"])
        assert "position in line" in out

    def test_labels_of_ones_own(self, command: Callable, trained: Path, tmp_path: Path) -> None:
        text, labels = tmp_path / "text.txt", tmp_path / "labels.json"
        text.write_text("ab\n" * 200)
        labels.write_text(json.dumps({"is b": [0, 1, 0] * 200}))
        code, out, err = command("inspect", "units", trained, text, "--labels", labels, "--json", "--show", tmp_path)
        assert code == 0, err
        assert "is b" in json.loads(out)["properties"]
        labels.write_text(json.dumps({"never": [0] * 600}))
        code, out, err = command("inspect", "units", trained, text, "--labels", labels, "--json", "--show", tmp_path)
        assert (code, err) == (0, "left out, being the same throughout a half: never\n")
        assert "never" not in json.loads(out)["properties"]
        labels.write_text(json.dumps({"is b": [0, 1]}))
        code, _, err = command("inspect", "units", trained, text, "--labels", labels)
        assert (code, err) == (2, "error: labels 'is b': expected a finite number for each of 600 tokens, got 2.\n")
        labels.write_text("[1]")
        code, _, err = command("inspect", "units", trained, text, "--labels", labels)
        assert (code, err) == (2, f"error: {labels}: expected an object of names and lists of numbers, got list.\n")
        labels.write_text('{"is b": [NaN]}')
        code, _, err = command("inspect", "units", trained, text, "--labels", labels)
        assert (code, err) == (2, f"error: {labels}: cannot be read as JSON (a number that is not finite: NaN).\n")

    def test_mistakes_are_said_in_one_line(self, command: Callable, trained: Path, real_text: Path, tmp_path: Path) -> None:
        ask = lambda *more: command("inspect", "units", trained, real_text, *more)  # noqa: E731
        code, _, err = ask("--unit", "l0.64", "--show", tmp_path)
        assert (code, err) == (2, "error: unit l0.64: expected a number from 0 to 15 of l0, got 64.\n")
        code, _, err = ask("--unit", "l1.2", "--show", tmp_path)
        assert (code, err) == (2, "error: unit l1.2: expected one of l0 before the dot, got l1.\n")
        (tmp_path / "file").write_text("in the way")
        code, _, err = ask("--show", tmp_path / "file" / "below")
        assert code == 2
        assert err.startswith(f"error: {tmp_path / 'file' / 'below'}: cannot make this folder")

    def test_text_that_the_run_never_saw(self, command: Callable, trained: Path, tmp_path: Path) -> None:
        text = tmp_path / "text.txt"
        text.write_text("Ж" * 500)
        code, _, err = command("inspect", "units", trained, text)
        assert code == 2
        assert "got 500 of 500 tokens that it never saw" in err
        text.write_text("return x\n" * 60 + "Ж")
        code, _, err = command("inspect", "units", trained, text, "--show", tmp_path)
        assert code == 0
        assert err.startswith("1 of 541 tokens are such as the run never saw\n")
        text.write_text("return")
        code, _, err = command("inspect", "units", trained, text)
        assert code == 2
        assert "expected at least 400 tokens" in err

    def test_weights_that_are_not_numbers(self, trained: Path, real_text: Path) -> None:
        run = tasks.load(trained)
        with torch.no_grad():
            run.model.layers.weight_hh_l0.fill_(torch.nan)
        with pytest.raises(errors.NotFiniteError, match="weights are damaged"):
            units.find(run.activations(real_text))
