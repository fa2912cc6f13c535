"""The run folder: a trained model on disk, written so that a kill at any instant leaves the last good one.

    config.json            the settings, the task's name, the format's version
    model.safetensors      the best weights so far: what sampling, evaluation and export use
    training.safetensors   everything needed to go on: last weights, optimizer, random state, carried state, counters
    metrics.jsonl          one line per report
    ...                    what the task needs beside them (vocabulary, prepared data, pictures)

Every file is written as `unrolled.files` does: at any instant there is the old one or the new one. Nothing here unpickles.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import unrolled
from unrolled.config import Saved, TrainingConfig
from unrolled.errors import RunError, nearest
from unrolled.files import write_atomically

C = TypeVar("C", bound=TrainingConfig)
FORMAT_VERSION = 1
MODEL, TRAINING, CONFIG, METRICS = "model.safetensors", "training.safetensors", "config.json", "metrics.jsonl"


def write_config(folder: Path, task: str, config: TrainingConfig) -> None:
    """Write config.json: the settings, the task's name, the versions of unrolled and of the format.

    Raises:
        RunError: the disk is full or refuses.
    """
    saved = Saved.of(task, config, unrolled.__version__, FORMAT_VERSION)
    write_atomically(folder / CONFIG, json.dumps(saved.model_dump(), indent=2).encode())  # ASCII: paths may be no UTF-8


def read_config(folder: Path) -> Saved:
    """What a run folder says of itself.

    Raises:
        RunError: no such folder, no run in it, a damaged config.json, or a format newer than this version reads.
    """
    if not folder.is_dir():
        siblings = [str(entry) for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise RunError(f"{folder}: no such run folder.{nearest(str(folder), siblings)}")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        version = content["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise RunError(
                f"{folder}: written in format {version}, this version of unrolled reads up to {FORMAT_VERSION}. "
                "Upgrade with: pip install --upgrade unrolled"
            )
        return Saved.model_validate(content)
    except FileNotFoundError:
        raise RunError(f"{folder}: not a run folder, it has no {CONFIG}. Give a folder that `unrolled train` wrote.") from None
    except (OSError, ValueError, TypeError, KeyError, ValidationError) as error:
        found = str(error).splitlines()[0]
        raise RunError(f"{folder / CONFIG}: damaged ({found}). Restore the file or train again.") from None


def open_config(folder: Path, task: str, config_class: type[C]) -> C:
    """The settings of a run of this task.

    Raises:
        RunError: as `read_config`, or a run of another task, or settings this version does not know.
    """
    saved = read_config(folder)
    if saved.task != task:
        raise RunError(f"{folder}: expected a run of {task}, got one of {saved.task}.")
    try:
        return config_class.model_validate(saved.config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunError(
            f"{folder / CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}. "
            f"It was written by unrolled {saved.unrolled_version}, this is {unrolled.__version__}."
        ) from None


def save_model(folder: Path, model: nn.Module, step: int) -> None:
    """Write the model's weights, as they are after `step` steps; tied ones once.

    Raises:
        RunError: the disk is full or refuses; the old file stays.
    """
    save_tensors(folder / MODEL, deduplicated_state(model), {"step": step})


def load_model(folder: Path, model: nn.Module) -> None:
    """Read the weights that `save_model` wrote into a model of the same settings.

    Raises:
        RunError: the file is missing or truncated, or its tensors have other names or shapes than the model's.
    """
    tensors, _ = read_tensors(folder / MODEL)
    load_weights(folder / MODEL, model, tensors)


def load_weights(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters after checking that they are the ones it has."""
    expected = deduplicated_state(model)
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "lacks" if name in expected else "has an unexpected"
        raise RunError(f"{path}: {what} tensor {name!r}. It was not written by a run with this config.json.")
    for name, parameter in expected.items():
        if parameter.shape != tensors[name].shape:
            raise RunError(
                f"{path}: expected {name!r} of shape {tuple(parameter.shape)} (from config.json), "
                f"got {tuple(tensors[name].shape)}. Model and config belong to different runs."
            )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Tensors and a JSON object in one file, so that they can never be of different moments.

    Raises:
        RunError: the disk is full or refuses; the old file stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}  # one key: safetensors writes several in another order each time
    write_atomically(path, safetensors.torch.save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        RunError: missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise RunError(f"{path}: missing. The run has not saved anything yet, or the file was removed.") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path}: damaged or truncated ({error}). Restore the file or train again.") from None


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a report to metrics.jsonl. Not flushed to disk: a kill may cut its last line short, which `read_metrics` skips."""
    with open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every whole line of metrics.jsonl; a kill may have left the last one unfinished."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for text in (folder / METRICS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines


def truncate_metrics(folder: Path, step: int) -> None:
    """Forget reports of later steps than the one being resumed from: they will be made again."""
    kept = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["step"] <= step]
    write_atomically(folder / METRICS, "".join(kept).encode())


def deduplicated_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tensor that has several names under its first only."""
    first_name: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first_name.setdefault(id(tensor), name)
    kept = set(first_name.values())
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name in kept}
