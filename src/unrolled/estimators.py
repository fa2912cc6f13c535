"""Labelling for arrays, the way scikit-learn's users expect: `SequenceClassifier` has a label for a sequence,
`SequenceLabeller` one for every step.

Both train labelling's model in the only loop, `unrolled.training.train`, in a temporary folder. Towards scikit-learn they keep
its rules: settings stay as they were given, and what `fit` finds ends in an underscore.
"""

from __future__ import annotations

import dataclasses
import numbers
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.metrics import accuracy_score
    from sklearn.utils import Tags, check_random_state
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    message = "SequenceClassifier and SequenceLabeller need scikit-learn. Install it with: pip install 'unrolled[labelling]'"
    raise ImportError(message) from None

from unrolled import checkpoint, training
from unrolled import config as settings_of
from unrolled.data import arrays
from unrolled.data.arrays import Arrays
from unrolled.data.spread import Spread
from unrolled.errors import ConfigError, DivergenceError
from unrolled.progress import Progress
from unrolled.task import Counters, Outcome
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding, Example, batch_of
from unrolled.tasks.labelling.generate import Prediction, in_batches, predict
from unrolled.tasks.labelling.in_memory import Task

_BEGINNING = {**dataclasses.asdict(Counters()), "processes": 1}


class _Estimator(ClassifierMixin, BaseEstimator):
    """What both have in common. `_settings` names the parameters that are labelling's settings by the same names."""

    _per: Literal["step", "sequence"]
    _settings: tuple[str, ...] = (
        "cell", "hidden_size", "num_layers", "bidirectional", "front", "dropout", "learning_rate", "weight_decay", "batch_size",
        "device",
    )  # fmt: skip
    cell: str
    hidden_size: int
    num_layers: int
    bidirectional: bool
    front: str
    dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_iter: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    device: str
    random_state: Any
    verbose: bool

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from sequences and their labels, from fresh weights.

        Args:
            X: sequences.
            y: their labels; of several at once indicators, one axis more, of 0 and 1.
            sample_weight: how much each sequence counts, (N,), as against the others; one of 0 is as good as absent. Of
                `SequenceLabeller` it may also be laid out as y, a weight for each step.

        Raises:
            ValueError: sequences, labels, weights or parameters that cannot be.
        """
        sequences = self._read(X, reset=True)
        labels = self._read_labels(y, sequences)
        weights = self._read_weights(sample_weight, sequences)
        self._begin(sequences, labels, weights)
        return self._learn(sequences, labels, weights, self.max_iter)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn on: one pass over these sequences, from the weights and the optimizer's moments there are.

        The learning rate falls from `learning_rate` to zero in each call (warm restarts, Loshchilov and Hutter 2017). Inputs
        are normalised as `fit`, or the first call, found them. Nothing is held out, whatever `early_stopping` says.

        Args:
            X: sequences, as in `fit`.
            y: their labels.
            classes: all labels that there will be; in the first call, unless `fit` has been called or y are indicators.
            sample_weight: as in `fit`.

        Raises:
            ValueError: as `fit`; a label that is none of `classes_`.
        """
        first = not hasattr(self, "classes_")
        sequences = self._read(X, reset=first)
        labels = self._read_labels(y, sequences)
        weights = self._read_weights(sample_weight, sequences)
        if first:
            if classes is None and labels.ndim == 1:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            self._begin(sequences, labels if labels.ndim == 2 else classes, weights)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError(f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}")
        return self._learn(sequences, labels, weights, None)

    def predict(self, X: Any) -> Any:
        """The most probable label of each sequence or step, laid out as y was in `fit`; of several at once indicators of those
        that are more probable than not."""
        sequences = self._read_known(X)
        return self._as_given(self._labels_of(sequences), sequences)

    def predict_proba(self, X: Any) -> Any:
        """The probability of every label, in the order of `classes_`: one axis more than labels have. They sum to 1; of several
        labels at once each is for itself."""
        sequences = self._read_known(X)
        found = self._predict(sequences, lambda one: one.probabilities.numpy(), np.float64, (len(self.classes_),))
        return self._as_given(found if self.multilabel_ else found / found.sum(axis=1, keepdims=True), sequences)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        return tags

    def _read(self, X: Any, *, reset: bool) -> Arrays:
        raise NotImplementedError

    def _read_labels(self, y: Any, sequences: Arrays) -> np.ndarray:
        raise NotImplementedError

    def _read_weights(self, sample_weight: Any, sequences: Arrays) -> np.ndarray | None:
        raise NotImplementedError

    def _as_given(self, values: np.ndarray, sequences: Arrays) -> Any:
        raise NotImplementedError

    def _labels_of(self, sequences: Arrays) -> np.ndarray:
        """The labels found for all sequences, or all their steps, end to end."""
        if self.multilabel_:
            return self._predict(sequences, lambda one: one.labels.numpy(), np.int64, (len(self.classes_),))
        return self.classes_[self._predict(sequences, lambda one: one.labels.numpy(), np.int64)]

    def _read_known(self, X: Any) -> Arrays:
        check_is_fitted(self)
        return self._read(X, reset=False)

    def _begin(self, sequences: Arrays, labels: Any, weights: np.ndarray | None) -> None:
        """What fresh weights begin with, and `partial_fit` keeps."""
        self.multilabel_ = np.ndim(labels) == 2
        self.classes_ = np.arange(labels.shape[1]) if self.multilabel_ else np.unique(labels)
        spread = Spread(sequences.steps.dtype if sequences.steps.dtype.kind == "f" else np.float64)
        of_steps = weights if weights is None or self._per == "step" else np.repeat(weights, sequences.lengths)
        spread.add(sequences.steps, of_steps)
        self.mean_, self.scale_ = spread.mean, spread.deviation
        self.n_iter_ = 0
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._state: dict[str, Tensor] = {}

    def _numbers_of(self, labels: np.ndarray) -> np.ndarray:
        """Labels as labelling has them: by their places in `classes_`, or true and false."""
        if (labels.ndim == 2) != self.multilabel_ or (self.multilabel_ and labels.shape[1] != len(self.classes_)):
            expected = f"indicators of {len(self.classes_)} labels" if self.multilabel_ else "one label each"
            got = f"indicators of {labels.shape[1]}" if labels.ndim == 2 else "one label each"
            raise ValueError(f"y: expected {expected}, as before, got {got}. `fit` begins anew.")
        if self.multilabel_:
            return labels.astype(bool)
        if unseen := sorted(set(np.unique(labels)) - set(self.classes_)):
            raise ValueError(f"y contains previously unseen labels: {unseen}")
        return np.searchsorted(self.classes_, labels)

    def _learn(self, sequences: Arrays, labels: np.ndarray, weights: np.ndarray | None, passes: int | None) -> Self:
        """So many passes over these sequences; None: one more, from the weights there are, if there are any."""
        ids = self._numbers_of(labels)
        examples = [part for one in self._examples(sequences, ids) for part in self._parts(one)]
        if weights is not None:
            examples = self._weighted(examples, weights)
        held_out: list[Example] = []
        if passes and self.early_stopping:
            examples, held_out = self._split(examples)
        self._config = self._configured(len(examples), passes)
        task = Task(self._config, self._encoding(), examples, held_out)
        with tempfile.TemporaryDirectory(prefix="unrolled-") as name, torch.random.fork_rng():
            folder = Path(name)
            if self._state:
                checkpoint.save_tensors(folder / checkpoint.TRAINING, self._state, _BEGINNING)
            outcome = self._train(task, folder)
            self.model_ = checkpoint.load_model(folder, task.build).eval()
            self._state = checkpoint.read_tensors(folder / checkpoint.TRAINING)[0]
        self._state |= {f"model.{name}": tensor for name, tensor in checkpoint.deduplicated_state(self.model_).items()}
        self.n_iter_ += -(-outcome.counters.step // task.batches.per_epoch)
        return self

    def _train(self, task: Task, folder: Path) -> Outcome:
        progress = Progress(quiet=not self.verbose)
        try:
            outcome = training.train(task, folder, resume=bool(self._state), progress=progress)  # type: ignore[arg-type]  # no files to prepare
        except DivergenceError:
            raise ValueError(
                f"Solver produced non-finite weights with learning_rate={self.learning_rate}. Give a lower one."
            ) from None
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
        return outcome

    def _configured(self, sequences: int, passes: int | None) -> Config:
        """Labelling's settings, and the loop's: all that only a run that is kept needs is left out."""
        for name in ("max_iter", "n_iter_no_change"):
            count = getattr(self, name)
            if not (isinstance(count, (int, np.integer)) and count > 0):
                raise ValueError(f"{name}: expected a whole number above 0, got {count!r}.")
        given = {name: getattr(self, name) for name in self._settings}
        own = {"per": self._per, "kind": "numbers", "multi": self.multilabel_}
        patience = self.n_iter_no_change if passes and self.early_stopping else 0
        try:
            checked = settings_of.load(Config, None, {**given, **own, "patience": patience})
            per_pass = max(1, round(sequences / checked.batch_size))
            steps = (passes or 1) * per_pass
            loop = {
                "max_steps": steps,
                "warmup_steps": 0 if self._state else min(20, steps // 10),
                "evaluate_every": per_pass if patience else steps,
                "save_every": steps,
                "sample_every": 0,
                "workers": 0,
                "seed": self._seed,
            }
            return settings_of.load(Config, None, {**checked.model_dump(), **loop})
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def _encoding(self) -> Encoding:
        """The inputs are normalised before, in float64."""
        zeros = [0.0] * len(self.mean_)
        return Encoding(
            kind="numbers",
            labels=[str(n) for n in range(len(self.classes_))],
            mean=zeros,
            deviation=[1.0] * len(zeros),
        )

    def _examples(self, sequences: Arrays, labels: np.ndarray | None = None) -> list[Example]:
        """Normalised sequences with the numbers of their labels; without labels all are 0."""
        steps = ((sequences.steps - self.mean_) / self.scale_).astype(np.float32)
        ends = np.cumsum(sequences.lengths)
        starts = ends - sequences.lengths
        if labels is None:
            each = (len(self.classes_),) if self.multilabel_ else ()
            labels = np.zeros((len(steps) if self._per == "step" else len(ends), *each), np.int64)
        own = [slice(*one) for one in zip(starts, ends, strict=True)] if self._per == "step" else range(len(ends))
        return [Example(steps[start:end], labels[n]) for start, end, n in zip(starts, ends, own, strict=True)]

    def _parts(self, example: Example) -> list[Example]:
        """What of a sequence is learned from at once."""
        return [example]

    def _weighted(self, examples: list[Example], weights: np.ndarray) -> list[Example]:
        """With their weights, of a mean of 1, so that steps of training are of the usual size; without those that do not count.

        Args:
            examples: all of them in order, end to end as their labels were given.
            weights: of each label.
        """
        counts = [len(one.labels) if self._per == "step" else 1 for one in examples]
        own = np.split(weights, np.cumsum(counts)[:-1])
        kept = [(one, part) for one, part in zip(examples, own, strict=True) if part.any()]
        mean = np.concatenate([part for _, part in kept]).mean()
        return [one._replace(weights=part / mean if self._per == "step" else part[0] / mean) for one, part in kept]

    def _split(self, examples: list[Example]) -> tuple[list[Example], list[Example]]:
        """What to learn from, and a `validation_fraction` to measure on."""
        fraction = self.validation_fraction
        count = max(1, round(len(examples) * fraction)) if isinstance(fraction, numbers.Real) and 0 < fraction < 1 else 0
        if not 0 < count < len(examples):
            raise ValueError(
                f"early_stopping: expected a validation_fraction between 0 and 1 that leaves sequences on both sides, got "
                f"{fraction!r} of n_samples={len(examples)}."
            )
        order = np.random.default_rng(self._seed).permutation(len(examples))
        return [examples[n] for n in order[count:]], [examples[n] for n in order[:count]]

    def _predict(
        self, sequences: Arrays, of: Callable[[Prediction], np.ndarray], dtype: type, more: tuple[int, ...] = ()
    ) -> np.ndarray:
        """What `of` takes from predictions, for each sequence (N, ...) or each step (sum of the lengths, ...)."""
        examples, encoding = self._examples(sequences), self._encoding()
        ends = np.cumsum(sequences.lengths)
        found = np.empty((ends[-1] if self._per == "step" else len(ends), *more), dtype)
        for chosen in in_batches(range(len(examples)), lambda n: len(examples[n].inputs)):
            batch = batch_of([examples[n] for n in chosen], encoding, self._config)
            values = of(predict(self.model_, batch, self._config))
            for n, own in zip(chosen, values, strict=True):
                if self._per == "step":
                    length = sequences.lengths[n]
                    found[ends[n] - length : ends[n]] = own[:length]
                else:
                    found[n] = own
        return found


class SequenceClassifier(_Estimator):
    """A label for each sequence, by recurrent layers: many-to-one.

    X is

    - a list of N arrays (T_i, F), or (T_i,) for one feature; lengths may differ, from each other and from those in `fit`;
    - an array (N, T, F);
    - an array or a data frame (N, T), each of whose rows is a sequence of T steps of one feature. It is a table as scikit-learn
      has them: `n_features_in_` is T, and later ones need as many columns.

    y is N labels, numbers or strings; or, of several labels at once, an array (N, L) of 0 and 1, a column for each label.

    Args:
        cell: `"rnn"`, `"lstm"` or `"gru"`; `"none"` for a baseline without recurrence.
        hidden_size: width of the recurrent state in each direction.
        num_layers: number of recurrent layers.
        bidirectional: whether it also reads from the end to the beginning.
        front: what stands before the recurrence: `"none"`, `"linear"`, or `"conv"`, a convolution over five steps.
        dropout: dropout rate before, between and after the recurrent layers.
        learning_rate: peak learning rate of AdamW: linear warm-up, then cosine decay to zero.
        weight_decay: decoupled weight decay of AdamW.
        batch_size: sequences in a batch, on average; batches are by length.
        max_iter: passes over the sequences (epochs).
        early_stopping: whether to hold some sequences out, to keep the weights that are best on them, and to stop once
            `n_iter_no_change` passes have brought nothing better.
        validation_fraction: with `early_stopping`, the share that is held out.
        n_iter_no_change: with `early_stopping`, how many passes to wait for something better.
        device: where to learn: `"cpu"`, `"cuda"`, or `"auto"`.
        random_state: a seed or a `numpy.random.RandomState`: the same seed gives the same weights.
        verbose: whether to show progress.

    Attributes:
        classes_: the labels, sorted; of several at once the numbers of y's columns.
        multilabel_: whether there are several at once.
        model_: the network, an `unrolled.tasks.labelling.model.Labeller`.
        mean_: of each feature over all steps in training.
        scale_: its standard deviation.
        n_features_in_: features of a step; of an array (N, T), T.
        n_iter_: passes done.

    >>> import numpy as np
    >>> from unrolled import SequenceClassifier
    >>> rising, falling = np.arange(9.0), -np.arange(5.0)
    >>> model = SequenceClassifier(hidden_size=8, random_state=0).fit([rising, falling], ["up", "down"])
    >>> model.predict([np.arange(20.0)])
    array(['up'], dtype='<U4')
    """

    _per = "sequence"

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = True,
        front: str = "none",
        dropout: float = 0.0,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        batch_size: int = 16,
        max_iter: int = 50,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.front = front
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _read(self, X: Any, *, reset: bool) -> Arrays:
        table = arrays.is_table(X)
        if reset:
            self._table = table
        elif table != self._table:
            forms = "a list or an array of three axes", "an array (n_samples, n_steps)"
            raise ValueError(
                f"{type(self).__name__} was fitted on {forms[self._table]}, got {forms[table]}. Give X in the form of fit."
            )
        return arrays.read_rows(self, X, reset=reset)

    def _read_labels(self, y: Any, sequences: Arrays) -> np.ndarray:
        return arrays.read_labels(self, y, sequences)

    def _read_weights(self, sample_weight: Any, sequences: Arrays) -> np.ndarray | None:
        return arrays.read_weights(sample_weight, sequences)

    def _as_given(self, values: np.ndarray, sequences: Arrays) -> np.ndarray:
        return values


class SequenceLabeller(_Estimator):
    """A label for each step of a sequence, by recurrent layers: many-to-many, aligned.

    X is

    - a list of N arrays (T_i, F), or (T_i,) for one feature; lengths may differ. y is a list of N arrays (T_i,);
    - an array (N, T, F). y is (N, T);
    - an array or a data frame (T, F), one sequence, whose rows are its steps. y is (T,).

    Of several labels at once y has an axis more, of L columns of 0 and 1. What it answers is laid out as y. Takes the
    parameters of `SequenceClassifier`, has its attributes, and

    Args:
        crf: whether the output layer is a conditional random field, which learns what label follows what (Lafferty et al.
            2001).
        longest: in training, longer sequences are cut into parts of at most this many steps.

    >>> import numpy as np
    >>> from unrolled import SequenceLabeller
    >>> heads = np.random.default_rng(0).integers(2, size=(64, 8, 1))
    >>> odd = heads[..., 0].cumsum(axis=1) % 2  # whether the heads so far are odd in number
    >>> model = SequenceLabeller(hidden_size=16, max_iter=200, random_state=0).fit(heads, odd)
    >>> model.predict([np.array([0, 1, 1, 1, 0, 0])])[0]
    array([0, 1, 0, 1, 1, 1])
    """

    _per = "step"
    _settings = (*_Estimator._settings, "crf", "longest")

    def __init__(
        self,
        *,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = True,
        front: str = "none",
        crf: bool = False,
        dropout: float = 0.0,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        batch_size: int = 16,
        longest: int = 200,
        max_iter: int = 50,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        device: str = "cpu",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.front = front
        self.crf = crf
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.longest = longest
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy: the share of all steps that are labelled right; of several labels at once, those of which all are.

        Args:
            X: sequences.
            y: the true labels.
            sample_weight: how much each step counts, as in `fit`.
        """
        sequences = self._read_known(X)
        labels, weights = self._read_labels(y, sequences), self._read_weights(sample_weight, sequences)
        return float(accuracy_score(labels, self._labels_of(sequences), sample_weight=weights))

    def _read(self, X: Any, *, reset: bool) -> Arrays:
        return arrays.read_sequences(self, X, reset=reset)

    def _read_labels(self, y: Any, sequences: Arrays) -> np.ndarray:
        labels = arrays.read_step_labels(self, y, sequences)
        if self.crf and labels.ndim == 2:
            raise ValueError("crf: expected one label for a step, got indicators of several at once. Set crf=False.")
        return labels

    def _read_weights(self, sample_weight: Any, sequences: Arrays) -> np.ndarray | None:
        return arrays.read_step_weights(sample_weight, sequences)

    def _weighted(self, examples: list[Example], weights: np.ndarray) -> list[Example]:
        weighted = super()._weighted(examples, weights)
        if self.crf and any(np.ptp(np.asarray(one.weights)) for one in weighted):
            raise ValueError(
                "crf: expected one sample_weight for a sequence, whose labels it takes together, got several. Give one "
                "each, or set crf=False."
            )
        return weighted

    def _parts(self, example: Example) -> list[Example]:
        longest = self.longest if isinstance(self.longest, (int, np.integer)) and self.longest > 0 else len(example.inputs)
        count = -(-len(example.inputs) // longest)
        ends = [len(example.inputs) * n // count for n in range(count + 1)]
        return [Example(example.inputs[start:end], example.labels[start:end]) for start, end in pairwise(ends)]

    def _as_given(self, values: np.ndarray, sequences: Arrays) -> Any:
        return sequences.as_given(values)
