"""The tasks by name, and the few things one does with any of them: train, resume, load.

Each task is a folder of five parts (config, data, model, loss, generate) and a `task.py` that offers them to the loop. A
task's modules are imported when it is used, so that the command line can list all of them without loading torch.
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled import config as settings_of
from unrolled.config import TrainingConfig
from unrolled.errors import RunError, nearest

if TYPE_CHECKING:
    from unrolled.engine import Engine
    from unrolled.progress import Progress
    from unrolled.task import Outcome

TASKS = {"language-model": "unrolled.tasks.language_model", "captioning": "unrolled.tasks.captioning"}
"""Name on the command line -> package."""


def config_class(name: str) -> type[TrainingConfig]:
    """The settings class of a task; cheap to import."""
    return importlib.import_module(_package(name) + ".config").Config


def train(
    task: str,
    data: str | Path | Iterable[str | Path],
    *,
    run: str | Path | None = None,
    recipe: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Outcome:
    """Train a task on some data into a run folder; what `unrolled train` does.

    Args:
        task: its name, such as `"language-model"`.
        data: what the task learns from: one or several paths, folders, patterns.
        run: the run folder to make; `runs/<task>-<date>` when left out.
        recipe: a TOML file of settings, which `settings` override.
        progress: where to show it; nothing is shown when left out.
        settings: the task's own and the loop's, by the names of its config's fields.

    Raises:
        ConfigError: a setting is unknown or cannot be; all problems are in one text.
        DataError: the data cannot be read or is too little; nothing is left half-written.
        RunError: the task or the folder cannot be; nothing is left half-written.
        DivergenceError: training met a NaN.
    """
    from unrolled import checkpoint, files
    from unrolled.engine import Engine
    from unrolled.progress import Progress

    paths = [str(path) for path in ([data] if isinstance(data, (str, Path)) else data)]
    given = {**settings, **({"data": paths} if paths else {})}
    config = settings_of.load(config_class(task), Path(recipe) if recipe else None, given)
    folder = Path(run) if run else _default_folder(task)
    module = _module(task)
    engine = Engine(config.device, config.precision)  # before anything is written: the device may not be there
    progress = progress or Progress(quiet=True)
    with files.new_folder(folder) as unfinished:
        with progress.preparing("preparing the data"):
            module.Task.prepare(config, unfinished, progress.say)
        checkpoint.write_config(unfinished, task, config)
    return _run(module, config, folder, engine, progress, resume=False)


def resume(run: str | Path, *, task: str | None = None, progress: Progress | None = None, **settings: Any) -> Outcome:
    """Go on with an unfinished run, exactly as if it had not stopped.

    Raises:
        RunError: the run is missing or damaged, or `settings` differ from those it was begun with.
    """
    from unrolled import checkpoint
    from unrolled.engine import Engine
    from unrolled.progress import Progress

    folder = Path(run)
    saved = checkpoint.read_config(folder)
    if task and saved.task != task:
        raise RunError(f"{folder}: expected a run of {task}, got one of {saved.task}.")
    config = checkpoint.open_config(folder, saved.task, config_class(saved.task))
    if differences := settings_of.changed(config, settings):
        raise RunError(
            f"{folder}: a resumed run keeps its settings; {'; '.join(differences)}. "
            "Leave those flags out, or begin a new run with --run."
        )
    module = _module(saved.task)
    engine, progress = Engine(config.device, config.precision), progress or Progress(quiet=True)
    if not (folder / checkpoint.TRAINING).exists():  # stopped before its first checkpoint: begin again
        checkpoint.truncate_metrics(folder, 0)
        return _run(module, config, folder, engine, progress, resume=False)
    return _run(module, config, folder, engine, progress, resume=True)


def load(run: str | Path) -> Any:
    """The trained model of a run folder, ready for use; what it can do depends on its task.

    Raises:
        RunError: the folder is missing, damaged or of a newer format.
    """
    from unrolled import checkpoint

    folder = Path(run)
    return _module(checkpoint.read_config(folder).task).Run(folder)


def _run(module: Any, config: Any, folder: Path, engine: Engine, progress: Progress, *, resume: bool) -> Outcome:
    from unrolled import training
    from unrolled.inspection import loss_curve
    from unrolled.task import Task, require

    task = module.Task(config, folder)
    require(task, Task, module.__name__)
    progress.say(task.summary)
    outcome = training.train(task, folder, resume=resume, engine=engine, progress=progress)
    loss_curve.draw(folder, task.loss_name, task.selection)
    return outcome


def _module(task: str) -> Any:
    """The module with a task's `Task` and `Run`."""
    from unrolled.task import Run, Task, require

    module = importlib.import_module(_package(task) + ".task")
    require(module.Task, Task, module.__name__)
    require(module.Run, Run, module.__name__)
    return module


def _package(task: str) -> str:
    if task not in TASKS:
        raise RunError(f"task: expected one of {', '.join(TASKS)}, got {task!r}.{nearest(task, TASKS)}")
    return TASKS[task]


def _default_folder(task: str) -> Path:
    name = f"{task}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    return Path("runs") / name
