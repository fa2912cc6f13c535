"""Labelling for arrays: what scikit-learn's users rely on, and what sequences add to it."""

import importlib
import pickle
import sys
import threading
import warnings
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import unrolled
from tolerance import assert_same
from unrolled import SequenceClassifier, SequenceLabeller, training

QUICK: dict[str, Any] = {"hidden_size": 8, "max_iter": 10, "batch_size": 16, "learning_rate": 0.05, "random_state": 0}
ESTIMATORS = [SequenceClassifier(**QUICK), SequenceLabeller(**QUICK)]
BATCHES = "a sample that is there twice is in two batches of training, and one of weight 2 in one"
NOT_FOR_SEQUENCES = {
    "SequenceClassifier": {"check_sample_weight_equivalence_on_dense_data": BATCHES},
    "SequenceLabeller": {
        "check_sample_weight_equivalence_on_dense_data": "steps that are absent, or there twice, make another sequence",
        "check_methods_sample_order_invariance": "the rows of an array (T, F) are steps of one sequence: their order counts",
        "check_methods_subset_invariance": "a step is labelled by its neighbours, so parts have other labels than the whole",
    },
}
"""Checks of scikit-learn's that cannot hold, and why; docs/estimators.md says the same."""
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)


def sequences(count: int = 24, width: int = 2, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Sequences of unequal lengths that rise or fall in one feature, which of the two, and at each step the sign of another."""
    chance = np.random.default_rng(seed)
    labels = np.where(np.arange(count) % 2, "up", "down")
    X = [chance.normal(size=(chance.integers(3, 9), width)) for _ in range(count)]
    for one, label in zip(X, labels, strict=True):
        one[:, 0] += np.arange(len(one)) * (3 if label == "up" else -3)
    return X, labels, [(one[:, -1] > 0).astype(int) for one in X]


def data_for(estimator: Any, **settings: Any) -> tuple[list[np.ndarray], Any]:
    X, whole, steps = sequences(**settings)
    return X, whole if isinstance(estimator, SequenceClassifier) else steps


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@each
def test_scikit_learns_checks_pass_but_those_that_cannot_hold_for_sequences(estimator: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that need pandas, or an environment variable, say that they are passed over
        results = check_estimator(clone(estimator), on_fail=None)
    failed = {one["check_name"] for one in results if one["status"] == "failed"}
    assert failed == NOT_FOR_SEQUENCES[type(estimator).__name__].keys()
    assert sum(one["status"] == "passed" for one in results) > 40


@each
def test_sequences_of_unequal_lengths_are_learned_and_others_of_other_lengths_recognised(estimator: Any) -> None:
    X, y = data_for(estimator)
    model = clone(estimator).set_params(max_iter=40).fit(X, y)
    unseen, truth = data_for(estimator, seed=1)
    assert model.score(unseen, truth) > 0.9
    assert model.n_features_in_ == 2
    assert model.n_iter_ == 40
    for one, probability in zip(model.predict(unseen), model.predict_proba(unseen), strict=True):
        assert np.array_equal(model.classes_[probability.argmax(-1)], one)
        assert np.allclose(probability.sum(-1), 1)


@each
def test_a_sequence_gets_the_same_answer_alone_and_among_others(estimator: Any) -> None:
    X, y = data_for(estimator)
    model = clone(estimator).fit(X, y)
    alone = [model.predict_proba([one])[0] for one in X]
    for one, other in zip(model.predict_proba(X), alone, strict=True):
        assert np.allclose(one, other, atol=1e-6)


@each
def test_a_list_and_an_array_of_three_axes_are_the_same(estimator: Any) -> None:
    X = np.random.default_rng(0).normal(size=(12, 5, 2))
    y = (X[:, 0, 0] > 0) if isinstance(estimator, SequenceClassifier) else X[..., 0] > 0
    model = clone(estimator).fit(X, y)
    assert np.array_equal(model.predict_proba(X), clone(estimator).fit(list(X), list(y)).predict_proba(list(X)))
    assert model.predict(X).shape == y.shape
    assert model.predict_proba(X).shape == (*y.shape, 2)
    ragged = np.array([*X[:11], X[11][:3]], dtype=object)  # NumPy's array of arrays
    assert len(model.predict(ragged)) == 12


def test_a_row_of_a_table_is_a_sequence_of_one_feature() -> None:
    X = np.random.default_rng(0).normal(size=(12, 5))
    y = X[:, 0] > 0
    table = SequenceClassifier(**QUICK).fit(X, y)
    assert (table.n_features_in_, len(table.mean_)) == (5, 1)
    longer = SequenceClassifier(**QUICK).fit(X[:, :, np.newaxis], y)
    assert np.array_equal(table.predict_proba(X), longer.predict_proba(X[:, :, np.newaxis]))
    assert np.array_equal(table.predict_proba(X), SequenceClassifier(**QUICK).fit([*map(list, X)], y).predict_proba(X))
    with pytest.raises(ValueError, match=r"was fitted on an array .n_samples, n_steps., got a list or an array of three axes"):
        table.predict(list(X))
    with pytest.raises(ValueError, match="was fitted on a list or an array of three axes, got an array"):
        longer.predict(X)


def test_the_rows_of_an_array_are_the_steps_of_one_sequence_to_a_labeller() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = np.where(X[:, 0] > 0, "on", "off")
    model = SequenceLabeller(**QUICK).fit(X, y)
    assert model.predict(X).shape == (30,)
    assert np.array_equal(model.predict(X), model.predict([X])[0])
    assert np.array_equal(model.predict(X), SequenceLabeller(**QUICK).fit([X], [y]).predict(X))


def test_long_sequences_are_cut_in_training_and_labelled_whole() -> None:
    X = np.random.default_rng(0).normal(size=(50, 1))
    parts: list[int] = []

    class Watched(SequenceLabeller):
        def _split(self, examples: Any) -> Any:
            parts.extend(len(one.inputs) for one in examples)
            return super()._split(examples)

    model = Watched(**QUICK, longest=20, early_stopping=True).fit(X, X[:, 0] > 0)
    assert parts == [16, 17, 17]
    assert len(model.predict(X)) == 50


@each
@pytest.mark.parametrize("store", [pickle, joblib], ids=["pickle", "joblib"])
def test_a_stored_estimator_answers_and_learns_on_as_the_original_does(estimator: Any, store: Any, tmp_path: Any) -> None:
    X, y = data_for(estimator)
    model = clone(estimator).fit(X, y)
    with open(tmp_path / "model", "wb") as file:
        store.dump(model, file)
    with open(tmp_path / "model", "rb") as file:
        loaded = store.load(file)
    assert same(loaded.predict_proba(X), model.predict_proba(X))
    assert same(loaded.partial_fit(X, y).predict_proba(X), model.partial_fit(X, y).predict_proba(X))


@each
def test_the_same_seed_gives_the_same_weights_and_torchs_random_numbers_stay_where_they_are(estimator: Any) -> None:
    X, y = data_for(estimator)
    model = clone(estimator).set_params(dropout=0.2).fit(X, y)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = clone(model).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(model.predict_proba(X), again.predict_proba(X))
    assert not same(model.predict_proba(X), clone(model).set_params(random_state=1).fit(X, y).predict_proba(X))


@each
def test_partial_fit_goes_on_from_the_weights_and_the_optimizers_moments(estimator: Any) -> None:
    X, y = data_for(estimator)
    classes = np.unique(np.concatenate([np.atleast_1d(one) for one in y]))
    model, forgetful = clone(estimator), clone(estimator)
    for one in (model, forgetful):
        one.partial_fit(X, y, classes=classes)
    first = model.predict_proba(X)
    moments = [name for name in forgetful._state if name.endswith(("exp_avg", "exp_avg_sq"))]
    assert moments
    for name in moments:
        forgetful._state[name].zero_()
    assert not same(model.partial_fit(X, y).predict_proba(X), first)
    assert not same(forgetful.partial_fit(X, y).predict_proba(X), model.predict_proba(X))
    for _ in range(30):
        model.partial_fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.n_iter_ == 32
    refitted = model.fit(X, y)  # fit begins anew
    assert same(refitted.predict_proba(X), clone(estimator).fit(X, y).predict_proba(X))


@each
def test_partial_fit_asks_for_the_classes_once_and_refuses_others(estimator: Any) -> None:
    X, y = data_for(estimator)
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        clone(estimator).partial_fit(X, y)
    model = clone(estimator).fit(X, y)
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
        model.partial_fit(X, y, classes=["left", "right"])
    other = ["left"] * len(X) if isinstance(estimator, SequenceClassifier) else [np.full(len(one), 7) for one in X]
    with pytest.raises(ValueError, match="y contains previously unseen labels"):
        model.partial_fit(X, other)


@each
def test_it_works_in_a_pipeline_and_in_model_selection(estimator: Any) -> None:
    X, y = data_for(estimator)
    doubled = FunctionTransformer(lambda X: [2 * one for one in X])
    pipeline = make_pipeline(doubled, clone(estimator))
    scores = cross_val_score(pipeline, X, y, cv=KFold(2, shuffle=True, random_state=0))
    assert scores.shape == (2,)
    name = pipeline.steps[-1][0]
    search = GridSearchCV(pipeline, {f"{name}__hidden_size": np.array([4, 8]), f"{name}__cell": ["gru"]}, cv=2)
    search.fit(X, y)
    assert search.best_params_[f"{name}__cell"] == "gru"
    assert len(search.predict(X)) == len(X)


def test_a_table_goes_through_scalers() -> None:
    X = np.random.default_rng(0).normal(size=(40, 5))
    assert make_pipeline(StandardScaler(), SequenceClassifier(**QUICK)).fit(X, X[:, 0] > 0).score(X, X[:, 0] > 0) > 0.9


def test_early_stopping_keeps_the_weights_that_are_best_on_what_was_held_out() -> None:
    X, y, _ = sequences()
    noise = np.random.default_rng(0).permutation(y)  # nothing to learn: more passes make it worse
    settings = {**QUICK, "max_iter": 200, "early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 3}
    model = SequenceClassifier(**settings).fit(X, noise)
    assert model.n_iter_ < 100
    with pytest.raises(ValueError, match=r"leaves sequences on both sides, got 0\.1 of n_samples=1"):
        SequenceClassifier(**QUICK, early_stopping=True).fit(X[:1], y[:1])


@each
def test_a_weight_of_two_counts_as_twice_there_and_of_zero_as_absent(estimator: Any) -> None:
    X, y = data_for(estimator, count=12)
    weights = np.array([0, 1, 2, 1] * 3)
    everything = clone(estimator).set_params(batch_size=100, max_iter=5)  # in one batch, so that training is the same
    weighted = clone(everything).fit(X, y, sample_weight=weights * 0.3)
    repeated = clone(everything).fit(*([one[n] for n in np.repeat(range(12), weights)] for one in (X, y)))
    ignoring = everything.fit(X, y)
    flat = [torch.tensor(np.vstack(model.predict_proba(X))).float() for model in (weighted, repeated, ignoring)]
    assert_same(flat[0], flat[1])
    assert not torch.allclose(flat[0], flat[2], atol=1e-2)
    right = np.array([np.mean(one == true) for one, true in zip(weighted.predict(X), y, strict=True)])
    sizes = np.array([np.size(one) for one in y])
    assert weighted.score(X, y, sample_weight=weights) == pytest.approx(np.average(right, weights=weights * sizes))


def test_weights_may_be_of_single_steps() -> None:
    X, _, y = sequences()
    wrong = [1 - one for one in y]
    doubled, both = [*X, *X], [*y, *wrong]  # every step is labelled both ways: weights say which counts
    weights = [*(np.ones(len(one)) for one in X), *(np.full(len(one), 0.01) for one in X)]
    weights[0][1] = 0  # a step that does not count in a sequence that does
    for one in (weights, np.array(weights, dtype=object)):
        model = SequenceLabeller(**{**QUICK, "max_iter": 40}).fit(doubled, both, sample_weight=one)
        assert model.score(X, y) > 0.9
    assert SequenceLabeller(**QUICK, crf=True).fit(X, y, sample_weight=np.arange(24)).predict(X)
    with pytest.raises(ValueError, match="crf: expected one sample_weight for a sequence"):
        SequenceLabeller(**QUICK, crf=True).fit(X, y, sample_weight=weights[:24])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: X\[0\] \d, sample_weight\[0\] \d"):
        SequenceLabeller(**QUICK).fit(X, y, sample_weight=[weights[0][1:], *weights[1:24]])


@each
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), r"sample_weight.shape == \(5,\), expected \(24,\)"),
        (-np.ones(24), "Negative values in data passed to `sample_weight`"),
        (np.zeros(24), "at least one non-zero number"),
        (np.full(24, np.nan), "Input sample_weight contains NaN"),
    ],
    ids=["too few", "negative", "zeros", "nan"],
)
def test_weights_that_cannot_be_are_refused(estimator: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clone(estimator).fit(*data_for(estimator), sample_weight=weights)


def indicators(estimator: Any, **settings: Any) -> tuple[list[np.ndarray], Any]:
    """The sequences, and of three labels at once which hold: the third never does."""
    X, whole, steps = sequences(**settings)
    if isinstance(estimator, SequenceClassifier):
        return X, np.array(
            [[label == "up", label == "down" and len(one) > 5, False] for one, label in zip(X, whole, strict=True)], int
        )
    return X, [
        np.stack([own, one[:, 0] > 0, np.zeros(len(one))], axis=1).astype(int) for one, own in zip(X, steps, strict=True)
    ]


@each
def test_several_labels_at_once_are_indicators_each_for_itself(estimator: Any) -> None:
    X, y = indicators(estimator)
    model = clone(estimator).set_params(max_iter=60).fit(X, y)
    assert model.multilabel_
    assert model.classes_.tolist() == [0, 1, 2]
    unseen, truth = indicators(estimator, seed=1)
    assert model.score(unseen, truth) > 0.8
    for one, probability, true in zip(model.predict(unseen), model.predict_proba(unseen), truth, strict=True):
        assert one.dtype == np.int64
        assert one.shape == probability.shape == true.shape
        assert np.array_equal(probability > 0.5, one)
        assert np.all(probability[..., 2] < 0.5)
    right = [np.all(one == true, axis=-1) for one, true in zip(model.predict(unseen), truth, strict=True)]
    assert model.score(unseen, truth) == pytest.approx(np.hstack(right).mean())
    stored = pickle.loads(pickle.dumps(model))
    assert same(stored.partial_fit(X, y).predict(X), model.partial_fit(X, y).predict(X))
    assert cross_val_score(make_pipeline(clone(estimator)), X, y, cv=2).shape == (2,)
    begun = clone(estimator).set_params(early_stopping=True)
    assert begun.fit(X, y, sample_weight=np.arange(24)).predict_proba(X)[0].shape == y[0].shape
    assert clone(estimator).partial_fit(X, y).classes_.tolist() == [0, 1, 2]  # columns say what labels there are


def test_indicators_may_be_an_array_of_one_axis_more() -> None:
    X = np.random.default_rng(0).normal(size=(12, 5, 2))
    y = (X > 0).astype(int)
    assert SequenceLabeller(**QUICK).fit(X, y).predict(X).shape == (12, 5, 2)
    assert SequenceLabeller(**QUICK).fit(X[0], y[0]).predict_proba(X[1]).shape == (5, 2)
    assert SequenceClassifier(**QUICK).fit(X[..., 0], y[:, 0]).predict_proba(X[..., 0]).shape == (12, 2)


@each
def test_indicators_and_single_labels_are_not_mixed(estimator: Any) -> None:
    X, single = data_for(estimator)
    _, several = indicators(estimator)
    model = clone(estimator).set_params(max_iter=1)
    with pytest.raises(ValueError, match=r"y: expected one label each, as before, got indicators of 3\. `fit` begins anew"):
        clone(model).fit(X, single).partial_fit(X, several)
    with pytest.raises(ValueError, match=r"y: expected indicators of 3 labels, as before, got indicators of 2\."):
        clone(model).fit(X, several).partial_fit(X, [one[..., :2] for one in several])
    with pytest.raises(ValueError, match=r"y: expected 0 and 1 for several labels at once, got \[0, 2\]"):
        model.fit(X, [2 * one for one in several])


def test_a_conditional_random_field_has_one_label_at_a_step() -> None:
    with pytest.raises(ValueError, match="crf: expected one label for a step, got indicators of several at once"):
        SequenceLabeller(**QUICK, crf=True).fit(*indicators(SequenceLabeller()))


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_in_tiny_units_are_learned_from_and_constant_ones_are_harmless(estimator: Any, dtype: type) -> None:
    X, y = data_for(estimator)
    tiny = [np.hstack([one * 2.0**-40, np.full((len(one), 1), 0.1)]).astype(dtype) for one in X]
    model = clone(estimator).set_params(max_iter=40).fit(tiny, y)
    assert model.scale_[2] == 1
    assert model.score(tiny, y) > 0.9


def test_a_conditional_random_field_labels_steps() -> None:
    X, _, y = sequences()
    model = SequenceLabeller(**{**QUICK, "max_iter": 40}, crf=True).fit(X, y)
    assert model.score(X, y) > 0.9
    assert np.allclose(model.predict_proba(X)[0].sum(-1), 1)


@each
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: [*X[:3], np.full((4, 2), np.nan)], "Input X contains NaN"),
        (lambda X: [*X[:3], np.full((4, 2), np.inf)], "Input X contains infinity"),
        (lambda X: [*X[:3], np.zeros((4, 3))], r"X\[3\] has 3 features, but X\[0\] has 2 features"),
        (lambda X: [one[:, :1] for one in X], r"X has 1 features, but Sequence\w+ is expecting 2 features as input"),
        (lambda X: [*X[:3], np.zeros((0, 2))], r"X\[3\]: Found array with 0 sample\(s\)"),
        (lambda X: [one[None] for one in X], r"Expected sequences of shape .* got X\[0\] of \(1, \d, 2\)"),
        (lambda X: np.zeros((0, 5, 2)), r"Found array with 0 sample\(s\)"),
    ],
    ids=["nan", "infinity", "two widths", "another width", "no steps", "four axes", "nothing"],
)
def test_what_cannot_be_is_refused_in_scikit_learns_words(estimator: Any, spoil: Any, message: str) -> None:
    X, y = data_for(estimator)
    model = clone(estimator).set_params(max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match=message):
        model.predict(spoil(X))
    if "is expecting" not in message:
        with pytest.raises(ValueError, match=message):
            model.fit(spoil(X), y[: len(spoil(X))])


def test_labels_have_to_fit_the_sequences() -> None:
    X, y, steps = sequences(4)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[4, 3\]"):
        SequenceClassifier(**QUICK).fit(X, y[:3])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: X\[1\] \d, y\[1\] \d"):
        SequenceLabeller(**QUICK).fit(X, [steps[0], steps[1][:-1], *steps[2:]])
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        SequenceLabeller(**QUICK).fit(X, [one + 0.5 for one in steps])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: expected greater than 0, got 0"),
        ({"cell": "lsmt"}, "cell: expected .*got 'lsmt'. Did you mean 'lstm'?"),
        ({"max_iter": 0}, "max_iter: expected a whole number above 0, got 0"),
        ({"device": "nosuch"}, "device nosuch: not available"),
        ({"learning_rate": 1e30}, "Solver produced non-finite weights with learning_rate=1e\\+30"),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_fit(settings: dict, message: str) -> None:
    X, y, _ = sequences(4)
    model = SequenceClassifier(**QUICK | settings)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_an_estimator_that_has_not_been_fitted_says_so() -> None:
    with pytest.raises(NotFittedError, match="This SequenceClassifier instance is not fitted yet"):
        SequenceClassifier().predict([np.zeros((3, 1))])


def test_it_learns_in_a_thread_and_leaves_no_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    X, y, _ = sequences(4)
    model = SequenceClassifier(**QUICK)
    thread = threading.Thread(target=model.fit, args=(X, y))
    thread.start()
    thread.join()
    assert model.n_iter_ == 10
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    train = training.train

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        outcome = train(*arguments, **settings)
        return type(outcome)(outcome.folder, outcome.counters, "interrupted", {})

    monkeypatch.setattr(training, "train", interrupted)
    X, y, _ = sequences(4)
    with pytest.raises(KeyboardInterrupt):
        SequenceClassifier(**QUICK).fit(X, y)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "unrolled.estimators")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"need scikit-learn. Install it with: pip install 'unrolled\[labelling\]'"):
        importlib.import_module("unrolled.estimators")
    with pytest.raises(ImportError, match="need scikit-learn"):
        _ = unrolled.SequenceClassifier
