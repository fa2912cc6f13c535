"""The few things one does with any task: train, resume, load, and run its demo.

Each task is a folder of five parts (config, data, model, loss, generate), a `task.py` that offers them to the loop, and two
files that import no torch: `commands.py` and `demo.py`. It is found by being here, or by an entry point
(`unrolled.tasks.discovery`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unrolled import config as settings_of
from unrolled.config import TrainingConfig
from unrolled.errors import RunError, UnrolledError
from unrolled.tasks import discovery

if TYPE_CHECKING:
    from unrolled.engine import Engine
    from unrolled.progress import Progress
    from unrolled.task import Outcome, Preview


def config_class(name: str) -> type[TrainingConfig]:
    """The settings class of a task; cheap to import.

    Raises:
        RunError: no such task, or one that cannot be used.
    """
    return discovery.get(name).module("config").Config


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
    with _alike_in_every_process():
        config = settings_of.load(config_class(task), Path(recipe) if recipe else None, given)
        module = task_module(task)
    engine = Engine(config.device, config.precision)  # before anything is written: the device may not be there
    progress = progress or Progress(quiet=True)

    def prepare() -> Path:
        engine.check_batch_size(config.batch_size)  # here, where one process refuses for all and the others wait to hear it
        folder = Path(run) if run else _default_folder(task)
        with files.new_folder(folder) as unfinished:
            with progress.preparing("preparing the data"):
                module.Task.prepare(config, unfinished, progress.say)
            checkpoint.write_config(unfinished, task, config)
        return folder

    if config.max_steps <= config.warmup_steps:
        progress.say(
            f"max_steps ({config.max_steps:,}) is within the warm-up (warmup_steps, {config.warmup_steps:,}), so the learning "
            "rate does not reach its peak."
        )
    folder = engine.on_main(prepare)
    try:
        return _run(module, config, folder, engine, progress, resume=False)
    except Exception as error:
        if engine.is_main and not _worth_keeping(folder, error):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(run: str | Path, *, task: str | None = None, progress: Progress | None = None, **settings: Any) -> Outcome:
    """Go on with an unfinished run, exactly as if it had not stopped.

    Raises:
        RunError: the run is missing or damaged, or `settings` differ from those it was begun with.
    """
    from unrolled import checkpoint
    from unrolled.engine import Engine
    from unrolled.progress import Progress
    from unrolled.task import Counters, Outcome

    folder, progress = Path(run), progress or Progress(quiet=True)
    with _alike_in_every_process():
        saved = checkpoint.read_config(folder)
        if task and saved.task != task:
            raise RunError(f"{folder}: expected a run of {task}, got one of {saved.task}.")
        config = checkpoint.open_config(folder, saved.task, config_class(saved.task))
        if differences := settings_of.changed(config, settings):
            raise RunError(
                f"{folder}: a resumed run keeps its settings; {'; '.join(differences)}. "
                "Leave those flags out, or begin a new run with --run."
            )
        module = task_module(saved.task)
        training = folder / checkpoint.TRAINING
        begun = [name for name in (checkpoint.MODEL, checkpoint.METRICS) if (folder / name).exists()]
        if begun and not os.path.lexists(training):  # a run that has begun has written it
            reached = max((line["step"] for line in checkpoint.read_metrics(folder)), default=0)
            if reached >= config.max_steps:
                progress.say(f"{training} is missing, but all {reached:,} steps are done: nothing to do.")
                return Outcome(folder, Counters(step=reached), "finished", checkpoint.last_evaluation(folder))
            raise RunError(
                f"{training}: missing, so the run cannot be continued; it has {' and '.join(begun)}, so it was begun. "
                "Going on would train from the beginning, over what is there. Restore the file, or begin a new run with --run."
            )
    engine = Engine(config.device, config.precision)
    return _run(module, config, folder, engine, progress, resume=bool(begun) or os.path.lexists(training))


def load(run: str | Path, /, *, task: str | None = None, **settings: Any) -> Any:
    """The trained model of a run folder, ready for use; what it can do depends on its task.

    Args:
        run: the folder.
        task: the only task whose runs will do; any when left out.
        settings: to use it with others than it was trained with, such as `beam=5`; only those that do not shape the model
            can be set, which its config names in `evaluation_settings`.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
        ConfigError: a setting is unknown, cannot be set for a trained model, or has an impossible value.
    """
    from unrolled import checkpoint

    folder = Path(run)
    name = checkpoint.read_config(folder).task
    if task and name != task:
        commands = ", ".join([*discovery.get(name).commands(), "evaluate", "export", "info"])
        raise RunError(f"{folder}: expected a run of {task}, got one of {name}. What that can do: {commands}.")
    config = checkpoint.open_config(folder, name, config_class(name))
    config = settings_of.change_for_evaluation(config, settings) if settings else config
    loaded = task_module(name).Run(folder)
    loaded.config = config
    return loaded


def about(run: str | Path) -> dict[str, Any]:
    """What a run learned of its data that its settings do not say, such as its labels; nothing of tasks that have no such.

    Raises:
        RunError: the folder is missing or damaged.
    """
    from unrolled import checkpoint

    folder = Path(run)
    name = checkpoint.read_config(folder).task
    describe = getattr(task_module(name).Run, "describe", None) if name in discovery.find() else None
    return describe(folder) if describe else {}


def demo(
    task: str, *, run: str | Path | None = None, progress: Progress | None = None, **settings: Any
) -> tuple[Outcome, Preview | None]:
    """Train a task on the example that it brings; what `unrolled demo` does.

    Args:
        task: its name.
        run: the run folder to make; `runs/<task>-demo-<date>` when left out. Data that the demo makes goes beside it, into a
            folder of the same name with `-data` at its end.
        progress: where to show it; nothing is shown when left out.
        settings: in place of the demo's own.

    Returns:
        how training ended, and what there is to show; None if it was interrupted.

    Raises:
        RunError: no such task, it brings no demo, or the folders are there already.
        ConfigError, DivergenceError: as `train`.
    """
    from unrolled import files

    package = discovery.get(task)
    if package.demo_summary is None:
        able = [name for name, one in discovery.find().items() if one.demo_summary is not None]
        raise RunError(f"task {task} brings no demo; these do: {', '.join(able)}.")
    make = package.module("demo").demo
    folder = Path(run) if run else _default_folder(f"{task}-demo")
    made = folder.with_name(f"{folder.name}-data")
    files.require_new(folder, f"Name another --run, or continue it with unrolled train {task} --resume {folder}.")
    files.require_new(made, "The demo's data would go there: name another --run, or remove that folder.")
    try:
        example = make(made)
        outcome = train(task, example.data, run=folder, progress=progress, **{**example.settings, **settings})
    except BaseException:
        if not folder.exists():  # data without a run is of no use
            shutil.rmtree(made, ignore_errors=True)
        raise
    if outcome.reason == "interrupted":
        return outcome, None
    trained = load(folder)
    preview = example.preview(trained) if example.preview else trained.preview()
    if example.unseen:
        command = f"unrolled evaluate {shlex.quote(str(folder))} {shlex.join(example.unseen)}"
        preview = dataclasses.replace(preview, commands=(command, *preview.commands))
    return outcome, preview


def _run(module: Any, config: Any, folder: Path, engine: Engine, progress: Progress, *, resume: bool) -> Outcome:
    from unrolled import files, training
    from unrolled.inspection import loss_curve
    from unrolled.task import Task, require

    with contextlib.ExitStack() as stack:
        engine.on_main(lambda: stack.enter_context(files.locked(folder)))
        task = module.Task(config, folder)
        require(task, Task, module.__name__)
        progress.say(task.summary + (f", {engine.count} processes" if engine.count > 1 else ""))
        outcome = training.train(task, folder, resume=resume, engine=engine, progress=progress)
        if engine.is_main:
            loss_curve.draw(folder, task.loss_name, task.selection)
    return outcome


def _worth_keeping(folder: Path, error: Exception) -> bool:
    """Whether a run folder made just now, in which training failed, is one to go on with; what we say in an error says so."""
    from unrolled import checkpoint

    return (folder / (checkpoint.TRAINING if isinstance(error, UnrolledError) else checkpoint.MODEL)).exists()


def task_module(task: str) -> Any:
    """The module with a task's `Task` and `Run`."""
    from unrolled.task import Run, Task, require

    module = discovery.get(task).module("task")
    require(module.Task, Task, module.__name__)
    require(module.Run, Run, module.__name__)
    return module


@contextlib.contextmanager
def _alike_in_every_process() -> Iterator[None]:
    """What goes wrong in here does so in each of the processes that train together, and one of them need say it."""
    try:
        yield
    except UnrolledError as error:
        raise error.in_every_process()  # noqa: B904  (it is the same one)


def _default_folder(task: str) -> Path:
    name = f"{task}-{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    return Path("runs") / name
