"""What is in a run folder."""

from __future__ import annotations

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
    weights, about = checkpoint.read_tensors(folder / checkpoint.MODEL)
    reports = checkpoint.read_metrics(folder)
    measured = [line for line in reports if line["part"] == "validation"]
    facts: dict[str, Any] = {
        "run": str(folder),
        "task": saved.task,
        "unrolled_version": saved.unrolled_version,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "tensors": {name: "x".join(map(str, tensor.shape)) for name, tensor in weights.items()},
        "config": saved.config,
    }
    if reports:
        facts |= {
            "steps": reports[-1]["step"],
            "seconds": reports[-1]["seconds"],
            "last_training_loss": _last_loss(reports),
        }
    if measured:
        facts["best_validation"] = next((line for line in measured if line["step"] == about.get("step")), None)
        facts["validation_loss_by_step"] = {str(line["step"]): round(line["loss"], 4) for line in measured}
    return facts


def _last_loss(reports: list[dict[str, Any]]) -> float | None:
    return next((line["loss"] for line in reversed(reports) if line["part"] == "train"), None)
