"""Reports of training, as they come, to metrics.jsonl and to TensorBoard."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from unrolled import checkpoint, files
from unrolled.errors import RunError
from unrolled.task import Counters

EVERY = 10
"""Steps between reports of training."""
Log = Callable[[Counters, str, dict[str, float]], None]
"""`(counters, "train" or "validation", values)`"""


@contextmanager
def open_log(folder: Path, step: int) -> Iterator[Log]:
    """What is yielded writes a report; `step` is where the run goes on, 0 at its beginning. Reports of later steps are dropped.

    Raises:
        RunError: the disk is full or refuses.
    """
    # TensorBoard writes in a thread of its own; the error it dies of is raised here again, at the next report.
    others, threading.excepthook = threading.excepthook, _without_oserrors(threading.excepthook)
    try:
        checkpoint.truncate_metrics(folder, step)
        with contextlib.closing(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)) as board:

            def log(counters: Counters, part: str, values: dict[str, float]) -> None:
                line = {"step": counters.step, "seconds": round(counters.seconds, 3), "part": part, **values}
                checkpoint.append_metrics(folder, line)
                for name, value in values.items():
                    board.add_scalar(f"{part}/{name}", value, counters.step)

            yield log
    except OSError as error:
        raise RunError(
            f"{folder}: could not write a report, {files.reason(error)}. "
            "The last checkpoint is kept; make room and go on with --resume."
        ) from None
    finally:
        threading.excepthook = others


def _without_oserrors(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda details: None if issubclass(details.exc_type, OSError) else hook(details)
