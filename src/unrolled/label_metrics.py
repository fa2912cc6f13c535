"""How good labels are: step by step, as segments, as named spans, and several at once. Scores but `frame_nll` are from 0 to 1.

A label that the model does not know, because training never had it, is compared like any other and is never found: it counts as
wrong. `never_seen` names such labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import groupby

import numpy as np

OVERLAPS = (10, 25, 50)
"""At which intersections over union, in percent, `segment_scores` counts a segment as found."""

Span = tuple[str, int, int]
"""Its label, its first step, and the first step after it."""


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """The share of labels that are right.

    Raises:
        ValueError: none, or another number of one than of the other.

    >>> accuracy(["walk", "walk", "run"], ["walk", "run", "run"])
    0.6666666666666666
    """
    _require_pairs(truth, predicted)
    return sum(one == other for one, other in zip(truth, predicted, strict=True)) / len(truth)


def per_label(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, dict[str, float]]:
    """`precision`, `recall`, `f1` and `support` (how often it is true) of each label that is true or predicted, by name.

    A label that is never predicted has precision 0, one that is never true recall 0.

    Raises:
        ValueError: as `accuracy`.

    >>> per_label(["walk", "walk", "run"], ["walk", "run", "run"])["walk"]
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'support': 2}
    """
    _require_pairs(truth, predicted)
    true, said = Counter(truth), Counter(predicted)
    right = Counter(one for one, other in zip(truth, predicted, strict=True) if one == other)
    return {
        label: {
            "precision": _share(right[label], said[label]),
            "recall": _share(right[label], true[label]),
            "f1": _share(2 * right[label], said[label] + true[label]),
            "support": true[label],
        }
        for label in sorted(true.keys() | said.keys())
    }


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """The mean F1 over the labels that are true or predicted, each counting the same however rare it is.

    Raises:
        ValueError: as `accuracy`.

    >>> macro_f1(["walk", "walk", "run"], ["walk", "run", "run"])
    0.6666666666666666
    """
    return float(np.mean([scores["f1"] for scores in per_label(truth, predicted).values()]))


def confusion(truth: Sequence[str], predicted: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The labels that are true or predicted, L of them, and how often each (row) was taken for each (column): (L, L) integers.

    Raises:
        ValueError: as `accuracy`.

    >>> confusion(["walk", "walk", "run"], ["walk", "run", "run"])
    (['run', 'walk'], array([[1, 0],
           [1, 1]]))
    """
    _require_pairs(truth, predicted)
    labels = sorted({*truth, *predicted})
    place = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for (one, other), count in Counter(zip(truth, predicted, strict=True)).items():
        counts[place[one], place[other]] = count
    return labels, counts


def never_seen(truth: Iterable[str], known: Collection[str]) -> dict[str, int]:
    """The true labels that training never had, and how often each is there, the most frequent first.

    >>> never_seen(["walk", "swim", "fly", "swim"], ["walk", "run"])
    {'swim': 2, 'fly': 1}
    """
    known = set(known)
    return dict(Counter(label for label in truth if label not in known).most_common())


def never_seen_line(unseen: dict[str, int], total: int) -> str:
    """One line that names the labels of `never_seen`, for a person; `total` is how many labels there are in all.

    >>> never_seen_line({"swim": 2, "fly": 1}, 1200)
    "3 of 1,200 labels were never seen in training and count as wrong: 'swim' (2), 'fly' (1)."
    """
    named = ", ".join(f"{label!r} ({count:,})" for label, count in list(unseen.items())[:8])
    more = f" and {len(unseen) - 8:,} more" if len(unseen) > 8 else ""
    return f"{sum(unseen.values()):,} of {total:,} labels were never seen in training and count as wrong: {named}{more}."


def segments(labels: Sequence[str]) -> list[Span]:
    """Runs of one label: (label, first step, the step after its last).

    >>> segments(["walk", "walk", "run"])
    [('walk', 0, 2), ('run', 2, 3)]
    """
    found, start = [], 0
    for label, run in groupby(labels):
        end = start + sum(1 for _ in run)
        found.append((label, start, end))
        start = end
    return found


def segment_scores(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """`edit`, `f1_10`, `f1_25` and `f1_50` of sequences of labels, each compared as segments rather than step by step.

    `edit` (Lea et al. 2016, Segmental spatiotemporal CNNs, section 5): 1 - the Levenshtein distance between the two orders of
    segments / the number of segments of the longer one, a mean over sequences; it punishes flicker and not a border that is a
    little off. `f1_k` (Lea et al. 2017, Temporal convolutional networks, section 4.1): a predicted segment is right if its
    intersection with the true segment of its label that it fits best is k% of their union or more, and no earlier one
    was; precision and recall are over the segments of all sequences. Multiply by 100 for the usual way to print them.

    Raises:
        ValueError: no sequences, or sequences of unequal numbers or lengths.

    >>> segment_scores([["walk"] * 6 + ["run"] * 4], [["walk"] * 5 + ["run"] * 3 + ["walk", "run"]])
    {'edit': 0.5, 'f1_10': 0.6666666666666666, 'f1_25': 0.6666666666666666, 'f1_50': 0.3333333333333333}
    """
    _require_pairs(truth, predicted)
    edits, found, true, said = [], np.zeros(len(OVERLAPS), dtype=np.int64), 0, 0
    for one, other in zip(truth, predicted, strict=True):
        _require_pairs(one, other)
        whole, guessed = segments(one), segments(other)
        edits.append(
            1 - levenshtein([span[0] for span in whole], [span[0] for span in guessed]) / max(len(whole), len(guessed))
        )
        found += _found(whole, guessed)
        true, said = true + len(whole), said + len(guessed)
    f1 = {f"f1_{overlap}": _share(2 * int(count), true + said) for overlap, count in zip(OVERLAPS, found, strict=True)}
    return {"edit": float(np.mean(edits)), **f1}


def is_bio(labels: Iterable[str]) -> bool:
    """Whether labels are those of named spans: `O`, and at least one tag of B, I, E or S, a hyphen and a type.

    >>> is_bio(["O", "B-PER", "I-PER"]), is_bio(["O", "NOUN"]), is_bio(["O"])
    (True, False, False)
    """
    tags = set(labels) - {"O"}
    return bool(tags) and all(tag[:2] in ("B-", "I-", "E-", "S-") and len(tag) > 2 for tag in tags)


def entities(labels: Sequence[str]) -> list[Span]:
    """The spans that tags such as B-PER, I-PER, O name: (type, first step, the step after its last), as conlleval reads them.

    A span begins at B and S, after O, E and S, and where the type changes, so that I without B begins one too.

    >>> entities(["B-PER", "I-PER", "O", "B-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    """
    found: list[Span] = []
    before, before_kind = "O", ""
    for step, label in enumerate(labels):
        tag, kind = label[:1], label[2:] or "_"
        if tag != "O":
            begins = tag in "BS" or before in "OES" or kind != before_kind
            found.append((kind, step, step + 1) if begins else (kind, found.pop()[1], step + 1))
        before, before_kind = tag, kind
    return found


def entity_scores(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """`entity_precision`, `entity_recall` and `entity_f1` of named spans over all sequences; a span is right if its type, its
    first and its last step are (Tjong Kim Sang and De Meulder 2003). The figures of seqeval and of conlleval.

    Raises:
        ValueError: as `segment_scores`.

    >>> entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-ORG"]])
    {'entity_precision': 0.5, 'entity_recall': 0.5, 'entity_f1': 0.5}
    """
    _require_pairs(truth, predicted)
    right = true = said = 0
    for one, other in zip(truth, predicted, strict=True):
        _require_pairs(one, other)
        whole, guessed = set(entities(one)), set(entities(other))
        right, true, said = right + len(whole & guessed), true + len(whole), said + len(guessed)
    scores = {"precision": _share(right, said), "recall": _share(right, true), "f1": _share(2 * right, true + said)}
    return {f"entity_{name}": value for name, value in scores.items()}


def multi_scores(truth: np.ndarray, logits: np.ndarray, *, unseen: int = 0) -> dict[str, float]:
    """`frame_nll`, `precision` and `recall` where a step has any number of labels, such as the notes of a chord.

    `frame_nll` is -log p of a step's labels in nats, each label on or off by its own sigmoid, summed over labels and averaged
    over steps (Boulanger-Lewandowski, Bengio and Vincent 2012). Precision and recall count labels of all steps; a label is
    predicted where its probability is above one half.

    Args:
        truth: (steps, L), true or 1 where a step has the label.
        logits: (steps, L), before the sigmoid.
        unseen: how many labels more were true that training never had: none was found. They are not in `frame_nll`.

    Raises:
        ValueError: no steps, or two shapes.

    >>> scores = multi_scores(np.array([[1, 1, 0]]), np.array([[2.0, -1.0, -3.0]]))
    >>> f"{scores['frame_nll']:.3f} {scores['precision']} {scores['recall']}"
    '1.489 1.0 0.5'
    """
    truth, logits = np.asarray(truth).astype(bool), np.asarray(logits, dtype=np.float64)
    if truth.shape != logits.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(f"expected truth and logits of one shape (steps, L), got {truth.shape} and {logits.shape}.")
    said = logits > 0
    right = int((truth & said).sum())
    return {
        "frame_nll": float((np.logaddexp(0, logits) - truth * logits).sum(1).mean()),
        "precision": _share(right, int(said.sum())),
        "recall": _share(right, int(truth.sum()) + unseen),
    }


def levenshtein(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The Levenshtein distance: how many insertions, deletions and replacements make one of the other.

    >>> levenshtein("kitten", "sitting")
    3
    """
    names = {label: n for n, label in enumerate({*one, *other})}
    target, places = np.array([names[label] for label in other]), np.arange(len(other) + 1)
    row = places
    for n, label in enumerate(one, 1):
        best = np.concatenate([[n], np.minimum(row[1:] + 1, row[:-1] + (target != names[label]))])
        row = np.minimum.accumulate(best - places) + places  # insertions, from left to right
    return int(row[-1])


def _found(truth: Sequence[Span], predicted: Sequence[Span]) -> np.ndarray:
    """How many predicted segments are right at each of OVERLAPS."""
    ends, starts = np.array([span[2] for span in truth]), np.array([span[1] for span in truth])
    taken = np.zeros((len(OVERLAPS), len(truth)), dtype=bool)
    for label, start, end in predicted:
        first, after = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(starts, end, "left"))  # those it meets
        unions = [
            (min(end, e) - max(start, s)) / (max(end, e) - min(start, s)) if name == label else 0.0
            for name, s, e in truth[first:after]
        ]
        best = int(np.argmax(unions))
        taken[:, first + best] |= unions[best] >= np.array(OVERLAPS) / 100
    return taken.sum(1)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _require_pairs(truth: Sequence, predicted: Sequence) -> None:
    if not len(truth) or len(truth) != len(predicted):
        raise ValueError(f"expected as many predicted as true, at least one, got {len(predicted)} and {len(truth)}.")
