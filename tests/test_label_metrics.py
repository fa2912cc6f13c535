"""Scores of labels: against scikit-learn, seqeval, and definitions written out at length."""

import random
import warnings

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics

from unrolled import label_metrics

LABELS = ["run", "sit", "stand", "walk"]


def some(seed: int, labels: list[str], length: int = 40) -> list[str]:
    """Labels that stay a while, as those of a video do."""
    source = random.Random(seed)
    found: list[str] = []
    while len(found) < length:
        found += [source.choice(labels)] * source.randint(1, 5)
    return found[:length]


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_steps_are_scikit_learns(seed: int) -> None:
    truth, predicted = some(seed, LABELS), some(seed + 100, [*LABELS[1:], "swim"])  # one never predicted, one never true
    labels, counts = label_metrics.confusion(truth, predicted)
    assert labels == [*LABELS[:3], "swim", "walk"]
    assert (counts == metrics.confusion_matrix(truth, predicted, labels=labels)).all()
    assert label_metrics.accuracy(truth, predicted) == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert label_metrics.macro_f1(truth, predicted) == pytest.approx(
        metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    found = label_metrics.per_label(truth, predicted)
    expected = metrics.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    assert [list(found[label].values()) for label in labels] == [pytest.approx(row) for row in zip(*expected, strict=True)]


def test_a_label_never_seen_in_training_counts_as_wrong_and_is_named() -> None:
    truth, predicted = ["walk", "swim", "fly", "swim"], ["walk", "walk", "walk", "run"]
    assert label_metrics.accuracy(truth, predicted) == 0.25
    assert label_metrics.per_label(truth, predicted)["swim"] == {"precision": 0, "recall": 0, "f1": 0, "support": 2}
    assert label_metrics.macro_f1(truth, predicted) == pytest.approx((0.5 + 0 + 0 + 0) / 4)
    unseen = label_metrics.never_seen(truth, ["walk", "run"])
    assert list(unseen.items()) == [("swim", 2), ("fly", 1)]
    many = {f"label {n}": 1 for n in range(10)}
    assert label_metrics.never_seen_line(many, 2000).startswith("10 of 2,000 labels were never seen")
    assert label_metrics.never_seen_line(many, 2000).endswith("'label 7' (1) and 2 more.")


def levenshtein(one: list[str], other: list[str]) -> int:
    """By its recursion."""
    if not one or not other:
        return len(one) + len(other)
    same = levenshtein(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, levenshtein(one[1:], other) + 1, levenshtein(one, other[1:]) + 1)


@pytest.mark.parametrize("seed", range(20))
def test_edit_is_levenshteins_distance_of_the_orders_of_segments(seed: int) -> None:
    truth, predicted = some(seed, LABELS, 17), some(seed + 100, LABELS, 17)
    orders = [[span[0] for span in label_metrics.segments(one)] for one in (truth, predicted)]
    expected = 1 - levenshtein(orders[0], orders[1]) / max(map(len, orders))
    assert label_metrics.segment_scores([truth], [predicted])["edit"] == pytest.approx(expected)


def counted_at_length(truth: list[list[str]], predicted: list[list[str]], overlap: float) -> float:
    """F1@overlap: every predicted segment beside every true one, as sets of steps."""
    right = wrong = missed = 0
    for one, other in zip(truth, predicted, strict=True):
        whole = [(label, set(range(start, end))) for label, start, end in label_metrics.segments(one)]
        taken: set[int] = set()
        for label, start, end in label_metrics.segments(other):
            steps = set(range(start, end))
            unions = [len(steps & there) / len(steps | there) * (name == label) for name, there in whole]
            best = unions.index(max(unions))
            if unions[best] >= overlap and best not in taken:
                taken.add(best)
                right += 1
            else:
                wrong += 1
        missed += len(whole) - len(taken)
    return 2 * right / (2 * right + wrong + missed)


@pytest.mark.parametrize("seed", range(10))
def test_f1_of_segments_counts_every_pair(seed: int) -> None:
    truth = [some(seed, LABELS, 60), some(seed + 1, LABELS, 7)]
    predicted = [[*truth[0][3:], *truth[0][:3]], some(seed + 2, LABELS, 7)]  # late by three steps
    found = label_metrics.segment_scores(truth, predicted)
    for overlap in label_metrics.OVERLAPS:
        assert found[f"f1_{overlap}"] == pytest.approx(counted_at_length(truth, predicted, overlap / 100))
    assert found["f1_10"] > found["f1_50"]


def test_flicker_lowers_the_scores_of_segments_far_more_than_accuracy() -> None:
    truth = ["walk"] * 50 + ["run"] * 50
    flickering = [label if n % 10 else "sit" for n, label in enumerate(truth)]
    assert label_metrics.accuracy(truth, flickering) == 0.9
    scores = label_metrics.segment_scores([truth], [flickering])
    assert scores["edit"] == pytest.approx(0.1)
    assert scores["f1_50"] == 0
    assert label_metrics.segment_scores([truth], [truth]) == {"edit": 1, "f1_10": 1, "f1_25": 1, "f1_50": 1}


@pytest.mark.parametrize("tags", ["BIO", "IO", "BIOES"])
@pytest.mark.parametrize("seed", range(10))
def test_entities_are_seqevals(tags: str, seed: int) -> None:
    source = random.Random(seed)
    labels = ["O", *(f"{tag}-{kind}" for tag in tags.replace("O", "") for kind in ("PER", "LOC", "two-words"))]
    truth = [[source.choice(labels) for _ in range(source.randint(1, 30))] for _ in range(4)]
    predicted = [[label if source.random() < 0.7 else source.choice(labels) for label in one] for one in truth]
    for one in truth:
        assert label_metrics.entities(one) == [(kind, start, end + 1) for kind, start, end in get_entities(one)]
    found = label_metrics.entity_scores(truth, predicted)
    assert found == {
        "entity_precision": pytest.approx(precision_score(truth, predicted)),
        "entity_recall": pytest.approx(recall_score(truth, predicted)),
        "entity_f1": pytest.approx(f1_score(truth, predicted)),
    }


def test_no_entities_at_all_are_zero_as_seqeval_has_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f1_score([["O", "O"]], [["O", "O"]]) == 0
    assert set(label_metrics.entity_scores([["O", "O"]], [["O", "O"]]).values()) == {0.0}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["B-PER", "O"], True),
        (["O"], False),
        (["O", "B"], False),
        (["B-PER", "O", "NOUN"], False),
        (["-", "O"], False),
    ],
)
def test_named_spans_are_known_by_their_labels(labels: list[str], expected: bool) -> None:
    assert label_metrics.is_bio(labels) is expected


def test_several_labels_at_once_are_scored_as_torch_and_scikit_learn_do() -> None:
    torch.manual_seed(0)
    truth, logits = torch.rand(11, 5) < 0.4, 3 * torch.randn(11, 5, dtype=torch.float64)
    found = label_metrics.multi_scores(truth.numpy(), logits.numpy())
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.double(), reduction="none").sum(1).mean()
    assert found["frame_nll"] == pytest.approx(nll.item())
    for name, score in (("precision", metrics.precision_score), ("recall", metrics.recall_score)):
        assert found[name] == pytest.approx(score(truth, logits > 0, average="micro"))
    more = label_metrics.multi_scores(truth.numpy(), logits.numpy(), unseen=7)
    assert more["recall"] == pytest.approx(found["recall"] * truth.sum().item() / (truth.sum().item() + 7))
    assert more["precision"] == found["precision"]
    assert np.isfinite(label_metrics.multi_scores(np.array([[1, 0]]), np.array([[-1e4, 1e4]]))["frame_nll"])


@pytest.mark.parametrize("score", [label_metrics.accuracy, label_metrics.macro_f1, label_metrics.confusion])
def test_unequal_numbers_are_refused(score) -> None:
    for truth, predicted in (([], []), (["a"], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match=f"expected as many .* got {len(predicted)} and {len(truth)}"):
            score(truth, predicted)
    for nested in (label_metrics.segment_scores, label_metrics.entity_scores):
        with pytest.raises(ValueError, match="got 2 and 1"):
            nested([["O"]], [["O", "O"]])
    with pytest.raises(ValueError, match=r"of one shape \(steps, L\), got \(1, 2\) and \(2, 1\)"):
        label_metrics.multi_scores(np.zeros((1, 2)), np.zeros((2, 1)))
