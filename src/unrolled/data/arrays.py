"""The X and y of scikit-learn's users as sequences: an array of two or three axes, or a list of arrays of any lengths.

Every error is in scikit-learn's words, most of them raised by its own checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    column_or_1d,
    validate_data,
)

Form = Literal["table", "array", "list"]


@dataclass(frozen=True)
class Arrays:
    """Sequences laid end to end."""

    form: Form
    """How they were given: in an array of two axes, of three, or in a list."""
    steps: np.ndarray
    """(sum of the lengths, F)"""
    lengths: np.ndarray
    """(N,)"""

    def as_given(self, values: np.ndarray) -> Any:
        """What was found for every step, (sum of the lengths, ...), laid out as X was."""
        if self.form == "table":
            return values
        if self.form == "array":
            return values.reshape(len(self.lengths), -1, *values.shape[1:])
        return np.split(values, np.cumsum(self.lengths)[:-1])


def read_rows(estimator: Any, X: Any, *, reset: bool) -> Arrays:
    """Every row of an array (N, T) is a sequence of T steps of one feature; otherwise as `read_sequences`.

    Raises:
        ValueError, TypeError: as `read_sequences`.
    """
    if not is_table(X):
        return read_sequences(estimator, X, reset=reset)
    rows = _numbers(estimator, X, reset)
    return Arrays("table", rows.reshape(-1, 1), np.full(len(rows), rows.shape[1]))


def read_sequences(estimator: Any, X: Any, *, reset: bool) -> Arrays:
    """X (N, T, F); a list of N arrays (T_i, F), or (T_i,) for one feature; or (T, F), one sequence.

    Args:
        estimator: in whose name errors are raised; `n_features_in_` is F.
        X: the sequences.
        reset: whether F becomes the estimator's, or has to be it.

    Raises:
        ValueError, TypeError: no numbers, NaN or infinity, nothing, another width, as scikit-learn says it.
    """
    if is_table(X):
        steps = _numbers(estimator, X, reset)
        return Arrays("table", steps, np.array([len(steps)]))
    if not is_list(X):
        X = np.asarray(X)
        steps = _numbers(estimator, X.reshape(X.shape[0] * X.shape[1], X.shape[2]), reset)
        return Arrays("array", steps, np.full(len(X), X.shape[1]))
    parts = [np.asarray(one) for one in X]
    parts = [one[:, np.newaxis] if one.ndim == 1 else one for one in parts]
    for n, one in enumerate(parts):
        if one.ndim != 2:
            raise ValueError(f"Expected sequences of shape (n_steps, n_features) or (n_steps,), got X[{n}] of {one.shape}.")
        if not len(one):
            raise ValueError(f"X[{n}]: Found array with 0 sample(s) (shape={one.shape}) while a minimum of 1 is required.")
        if one.shape[1] != parts[0].shape[1]:
            raise ValueError(f"X[{n}] has {one.shape[1]} features, but X[0] has {parts[0].shape[1]} features.")
    steps = _numbers(estimator, np.concatenate(parts), reset)
    return Arrays("list", steps, np.array([len(one) for one in parts]))


def read_labels(estimator: Any, y: Any, sequences: Arrays) -> np.ndarray:
    """One label for each sequence, (N,); or several at once as indicators, (N, L) of 0 and 1.

    Raises:
        ValueError: another number, numbers that are no labels, NaN, as scikit-learn says it.
    """
    return _checked(estimator, y, sequences.lengths)


def read_step_labels(estimator: Any, y: Any, sequences: Arrays) -> np.ndarray:
    """As `read_labels`, for each step, in the layout of X without its features: (sum of the lengths,), or that by L.

    Raises:
        ValueError: as `read_labels`.
    """
    if sequences.form != "table":
        _require(estimator, y)
        y = _end_to_end(y, sequences, "y")
    return _checked(estimator, y, sequences.steps)


def read_weights(sample_weight: Any, sequences: Arrays) -> np.ndarray | None:
    """A weight for each sequence, (N,), none below 0; None: all count alike.

    Raises:
        ValueError: another number of them, a negative one, NaN or infinity, or nothing but zeros.
    """
    return None if sample_weight is None else _checked_weights(sample_weight, sequences.lengths)


def read_step_weights(sample_weight: Any, sequences: Arrays) -> np.ndarray | None:
    """A weight for each step, (sum of the lengths,): given one by one in the layout of X without its features, or of a list or
    an array of three axes one for each sequence, which all its steps have.

    Raises:
        ValueError: as `read_weights`.
    """
    if sample_weight is None:
        return None
    if sequences.form == "table":
        return _checked_weights(sample_weight, sequences.steps)
    if is_list(sample_weight) or np.asarray(sample_weight).ndim == 2:
        return _checked_weights(_end_to_end(sample_weight, sequences, "sample_weight"), sequences.steps)
    return np.repeat(_checked_weights(sample_weight, sequences.lengths), sequences.lengths)


def is_list(X: Any) -> bool:
    """Whether X is a list of sequences: of arrays, or of lists that make no array because their lengths differ."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and np.ndim(X[0]) > 0
    if not isinstance(X, (list, tuple)) or not X:
        return False
    if hasattr(X[0], "__array__"):
        return np.ndim(X[0]) > 0
    try:
        np.asarray(X)
    except ValueError:
        return True
    return False


def is_table(X: Any) -> bool:
    """Whether X is to be an array of two axes: no list of sequences, and no array of three."""
    return not is_list(X) and (X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim) != 3


def _numbers(estimator: Any, X: Any, reset: bool) -> np.ndarray:
    checked: Any = validate_data(estimator, X, reset=reset)
    return checked


def _end_to_end(several: Any, sequences: Arrays, name: str) -> np.ndarray:
    """What each sequence has for its steps, (T_i,) or (T_i, L) each, as one array."""
    check_consistent_length(sequences.lengths, several)
    parts = [one if one.ndim == 2 and one.shape[1] > 1 else column_or_1d(one) for one in map(np.asarray, several)]
    for n, (one, length) in enumerate(zip(parts, sequences.lengths, strict=True)):
        if len(one) != length:
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X[{n}] {length}, {name}[{n}] {len(one)}"
            )
        if one.shape[1:] != parts[0].shape[1:]:
            raise ValueError(f"{name}[{n}] has shape {one.shape}, but {name}[0] has {parts[0].shape}.")
    return np.concatenate(parts)


def _checked(estimator: Any, y: Any, of: np.ndarray) -> np.ndarray:
    _require(estimator, y)
    y = np.asarray(y)
    several = y.ndim == 2 and type_of_target(y, input_name="y") == "multilabel-indicator"
    if not several:
        y = column_or_1d(y, warn=True)
    y = check_array(y, ensure_2d=False, dtype=None, input_name="y", estimator=estimator)  # type: ignore[arg-type]  # None: as it is
    check_consistent_length(of, y)
    if not several:
        check_classification_targets(y)
    elif not np.isin(y, (0, 1)).all():
        raise ValueError(f"y: expected 0 and 1 for several labels at once, got {np.unique(y).tolist()}.")
    return y


def _checked_weights(sample_weight: Any, of: np.ndarray) -> np.ndarray:
    return _check_sample_weight(sample_weight, of, dtype=np.float64, ensure_non_negative=True)


def _require(estimator: Any, y: Any) -> None:
    if y is None:
        name = type(estimator).__name__
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
