"""What is in a run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unrolled import checkpoint


def describe(folder: str | Path) -> dict[str, Any]:
    """Task, settings, number and shapes of parameters, and history of a run, ready for JSON; losses in nats per token.

    Raises:
        RunError: no such run, or a damaged one.
    """
    folder = Path(folder)
    saved = checkpoint.read_config(folder)
    shapes = checkpoint.read_shapes(folder / checkpoint.MODEL)
    reports = checkpoint.read_metrics(folder)
    measured = [line for line in reports if line["part"] == "validation"]
    facts: dict[str, Any] = {
        "run": str(folder),
        "task": saved.task,
        "unrolled_version": saved.unrolled_version,
        "parameters": sum(map(math.prod, shapes.values())),
        "tensors": {name: "x".join(map(str, shape)) for name, shape in shapes.items()},
        "config": saved.config,
    }
    if reports:
        facts |= {
            "steps": reports[-1]["step"],
            "seconds": reports[-1]["seconds"],
            "last_training_loss": _last_loss(reports),
        }
    if measured:
        best = checkpoint.read_tensors(folder / checkpoint.MODEL)[1].get("step")
        facts["best_validation"] = next((line for line in measured if line["step"] == best), None)
        facts["validation_loss_by_step"] = {str(line["step"]): round(line["loss"], 4) for line in measured if "loss" in line}
    return facts


def shortened(facts: dict[str, Any], evaluations: int = 5, labels: int = 30) -> dict[str, Any]:
    """What of `describe`'s facts is for people: without the tensors, and with the last evaluations and the first labels alone.

    >>> shortened({"tensors": {"weight": "2x3"}, "validation_loss_by_step": {"10": 1.5, "20": 1.2}}, evaluations=1)
    {'tensors': '1 (--json lists them)', 'validation_loss_by_step': {'20': 1.2}}
    """
    short = facts | {"tensors": f"{len(facts['tensors']):,} (--json lists them)"}
    if losses := facts.get("validation_loss_by_step"):
        short["validation_loss_by_step"] = dict([*losses.items()][-evaluations:])
    if own := facts.get("labels"):
        more = f", and {len(own) - labels:,} more" if len(own) > labels else ""
        short["labels"] = f"{len(own):,}: {', '.join(own[:labels])}{more}"
    return short


def _last_loss(reports: list[dict[str, Any]]) -> float | None:
    return next((line["loss"] for line in reversed(reports) if line["part"] == "train" and "loss" in line), None)
