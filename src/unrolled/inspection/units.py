"""Hidden units that keep track of something in a text, found by themselves, and the text coloured by any unit.

Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks", section 4.1. They found such units
by eye. Of some hundred units a few fit anything by chance: here half of the text finds a unit, the other half scores it, and
the score has to be beyond what the same search scores for labels that are shifted in time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from unrolled.errors import DataError, NotFiniteError
from unrolled.inspection import coloured_text
from unrolled.inspection.label_styles import Style
from unrolled.inspection.text_properties import properties
from unrolled.task import Activations

SHIFTS, QUANTILE = 1000, 0.999
"""How often the labels are shifted, and which quantile of the best scores is the control: of a thousand properties that nothing
tracks, one is believed to be tracked."""
SHORTEST = 400
"""Tokens of a text, at least."""
_AT_ONCE = 50
"""Shifts in one product: each takes as much memory as a unit."""
_MORE = 3
"""Units of one property that are reported, at most."""
_LEVELS = ("#B35806", "#E08214", "#FDB863", "#FEE0B6", "#F7F7F7", "#D8DAEB", "#B2ABD2", "#8073AC", "#542788")
"""From -1 to 1: ColorBrewer's PuOr, which colour-blind people tell apart."""


@dataclass(frozen=True)
class Tracking:
    """How well one unit tracks one property."""

    unit: str
    """Layer and number: `l0.17`."""
    found: float
    """Correlation with the property on the half of the text that found it."""
    score: float
    """Correlation on the other half, its sign that of the first: 1 is a unit that says it exactly."""

    @property
    def correlation(self) -> float:
        """On the other half as it is: below 0, the unit is low where the property is high."""
        return math.copysign(1, self.found) * self.score


@dataclass(frozen=True)
class Property:
    """What of a property the units know."""

    name: str
    best: Tracking
    """The unit that tracks it best on the first half, whether it is to be believed or not."""
    control: float
    """What the best unit scores with labels shifted in time: the highest of a thousand shifts but for one."""
    tracked_by: tuple[Tracking, ...]
    """The best three units whose correlations on both halves are above the control; empty when there is none."""


def find(activations: Activations, labels: Mapping[str, Sequence[float]] | None = None, *, seed: int = 0) -> list[Property]:
    """The units that track something in a text, the surest first.

    A score is the correlation of a unit with a property. The control is what the best of all units scores on the second half
    when the labels are moved along the text by a random distance and around its end: they keep their own rhythm and lose the
    text. Taking the best of all units makes it hold for them all at once.

    Args:
        activations: of a run, see `unrolled.task.Activations`.
        labels: more properties by name, a number for each piece; 0 and 1 for what is either there or not.
        seed: of the distances.

    Raises:
        DataError: a text that is too short, labels of another length or that are not finite.
        NotFiniteError: units that are not numbers.
    """
    pieces, names, values = activations.pieces, activations.names(), activations.values()
    if len(pieces) < SHORTEST:
        raise DataError(
            f"text: expected at least {SHORTEST} tokens, half to find units by and half to score, got {len(pieces)}."
        )
    if not torch.isfinite(values).all():
        raise NotFiniteError("units: expected numbers, got NaN or infinity: the model's weights are damaged.")
    half = len(pieces) // 2
    asked = of_pieces(pieces) | {
        name: _checked(name, given, len(pieces)) for name, given in {**activations.labels, **(labels or {})}.items()
    }
    parts = [_standardised(values[part]) for part in (slice(half), slice(half, None))]
    shifts = _shifts(len(pieces) - half, seed)
    results = []
    for name, property_values in asked.items():
        sides = [torch.from_numpy(property_values[part]).float() for part in (slice(half), slice(half, None))]
        if any(float(side.min()) == float(side.max()) for side in sides):
            continue  # the same throughout a half: nothing to find, or nothing to score
        found, score = (_standardised(side[:, None])[:, 0] @ part / len(side) for side, part in zip(sides, parts, strict=True))
        score = score * found.sign()
        control = _control(sides[1], parts[1], shifts)
        order = found.abs().argsort(descending=True).tolist()
        tracking = [Tracking(names[n], float(found[n]), float(score[n])) for n in order]
        believed = tuple(one for one in tracking if one.score > control and abs(one.found) > control)
        results.append(Property(name, tracking[0], control, believed[:_MORE]))
    return sorted(results, key=lambda one: (not one.tracked_by, -one.best.score))


def of_pieces(pieces: Sequence[str]) -> dict[str, np.ndarray]:
    """`text_properties` of the pieces put together, of each as it is after its last character."""
    ends = np.cumsum([len(piece) for piece in pieces])
    return {name: values[np.maximum(ends - 1, 0)] for name, values in properties("".join(pieces)).items()}


def draw_text(path: Path, activations: Activations, unit: str, title: str = "") -> Path:
    """Write the text as HTML or PNG, by the path's ending, coloured by what one unit is after each piece; return the path.

    Colours go from orange (negative) over white to violet, and are scaled to the unit's largest value in the text.

    Raises:
        DataError: the run has no such unit.
    """
    values = activations.values()[:, position(activations, unit)]
    largest = float(values.abs().max()) or 1.0
    middle = len(_LEVELS) // 2
    names = [f"{(level - middle) / middle * largest:+.2f}" for level in range(len(_LEVELS))]
    labels = [names[level] for level in ((values / largest + 1) * middle).round().int().tolist()]
    looks = {
        name: Style(colour, "#FFFFFF" if level in (0, 7, 8) else "#000000", 0)
        for level, (name, colour) in enumerate(zip(names, _LEVELS, strict=True))
    }
    return coloured_text.draw(path, activations.pieces, labels, looks=looks, title=title or f"Unit {unit}")


def position(activations: Activations, unit: str) -> int:
    """The column of a unit such as `l0.17`; a number alone is one of the first layer.

    Raises:
        DataError: the run has no such unit.
    """
    layer, _, number = unit.rpartition(".")
    layer = layer or next(iter(activations.units))
    if layer not in activations.units:
        raise DataError(f"unit {unit}: expected one of {', '.join(activations.units)} before the dot, got {layer}.")
    width = activations.units[layer].shape[1]
    if not number.isdecimal() or int(number) >= width:
        raise DataError(f"unit {unit}: expected a number from 0 to {width - 1} of {layer}, got {number or 'none'}.")
    return activations.names().index(f"{layer}.{int(number)}")


def draw(several: Sequence[Property]) -> Figure:
    """The best unit's score for each property, beside the control."""
    figure = Figure(figsize=(7, 1.2 + 0.42 * len(several)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(several))
    colours = ["#0072B2" if one.tracked_by else "#BBBBBB" for one in several]
    shown = [one.tracked_by[0] if one.tracked_by else one.best for one in several]
    axes.barh(rows, [max(one.score, 0) for one in shown], color=colours, height=0.6)
    axes.plot([one.control for one in several], rows, "|", color="#D55E00", ms=16, mew=2.5, label="labels shifted in time")
    for row, one in zip(rows, shown, strict=True):
        right = max(one.score, several[row].control, 0) + 0.02
        axes.text(right, row, f"{one.unit}  {one.correlation:+.2f}", va="center", fontsize=9)
    axes.set_yticks(rows, [one.name.replace("$", r"\$") for one in several])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.15), xlabel="size of the correlation on the half of the text that did not find the unit")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", frameon=False)
    return figure


def numbers(several: Sequence[Property]) -> dict[str, Any]:
    """What was found, ready for JSON: a `sentence`, and by `properties` the units that track them, the best, the control."""
    properties = {
        one.name: {"tracked_by": [vars(each) for each in one.tracked_by], "best": vars(one.best), "control": one.control}
        for one in several
    }
    return {"sentence": _sentence(several), "properties": properties}


def shown(several: Sequence[Property]) -> dict[str, str]:
    """The same for a person, a line for each property."""
    return {
        one.name: ", ".join(f"{each.unit} {each.correlation:+.2f}" for each in one.tracked_by or [one.best])
        + f"; control {one.control:.2f}{'' if one.tracked_by else _why_not(one)}"
        for one in several
    }


def _why_not(one: Property) -> str:
    only_here = f", {one.best.found:+.2f} on the half that found it" if one.best.score > one.control else ""
    return f": not believed{only_here}"


def _sentence(several: Sequence[Property]) -> str:
    found = [one for one in several if one.tracked_by]
    if not found:
        return f"No unit tracks any of {len(several)} properties of the text better than it does by chance."
    first, best = found[0], found[0].tracked_by[0]
    return (
        f"Units track {len(found)} of {len(several)} properties of the text: {first.name} best, {best.unit} with a "
        f"correlation of {best.correlation:+.2f}, where labels shifted in time reach {first.control:.2f}."
    )


def _checked(name: str, values: Sequence[float], length: int) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"labels {name!r}: expected a number for each of {length:,} tokens, got something else.") from None
    if array.shape != (length,) or not np.isfinite(array).all():
        got = "some that are not finite" if array.shape == (length,) else f"{array.size:,}"
        raise DataError(f"labels {name!r}: expected a finite number for each of {length:,} tokens, got {got}.")
    return _scaled(_scaled(array) - _scaled(array).mean())


def _scaled(values: np.ndarray) -> np.ndarray:
    """With a largest absolute value of 1: a correlation does not depend on it, and float32 has room."""
    largest = np.abs(values).max()
    return values / largest if largest else values


def _standardised(values: Tensor) -> Tensor:
    """Of mean 0 and deviation 1 over time; a unit that never changes is 0 and correlates with nothing. (N, U)"""
    centred = values - values.mean(0)
    deviation = centred.square().mean(0).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation.clamp_min(1e-6), torch.zeros_like(centred))


def _shifts(length: int, seed: int) -> list[int]:
    """Distances at least a twentieth of the length away from no shift at all, at either end."""
    near = length // 20
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(near, length - near, (SHIFTS,), generator=generator).tolist()


def _control(side: Tensor, units: Tensor, shifts: Sequence[int]) -> float:
    labels = _standardised(side[:, None])[:, 0]
    best = []
    for start in range(0, len(shifts), _AT_ONCE):
        moved = torch.stack([labels.roll(shift) for shift in shifts[start : start + _AT_ONCE]])
        best.append((moved @ units / len(labels)).abs().amax(1))
    return float(torch.cat(best).quantile(QUANTILE, interpolation="lower"))
