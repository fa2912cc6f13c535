"""The command line. Each command parses, calls one function of the library, and prints; torch loads only where it is used.

Data goes to stdout, progress and errors to stderr; the exit code is 2 for something the user can fix, 1 for a fault of ours,
whose traceback goes to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import sys
import tempfile
import traceback
import typing
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from unrolled import __version__
from unrolled.errors import ConfigError, UnrolledError, nearest
from unrolled.inspect_commands import inspect
from unrolled.printing import print_values
from unrolled.tasks import discovery
from unrolled.tasks.discovery import TaskPackage

if typing.TYPE_CHECKING:
    from unrolled.progress import Progress
    from unrolled.task import Outcome, Preview


class Commands(click.RichGroup):
    """`unrolled`: the commands below, and those that tasks bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *discovery.commands(self.commands)[0]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.commands.get(cmd_name) or discovery.commands(self.commands)[0].get(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if not args[0].startswith("-") and not self.get_command(ctx, args[0]):
            hint = f" Did you mean 'unrolled train {args[0]}'?" if args[0] in discovery.find() else ""
            raise click.UsageError(
                f"no command {args[0]!r}.{hint or nearest(args[0], self.list_commands(ctx))} `unrolled --help` lists them."
            )
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        self.epilog = "\n\n".join(discovery.commands(self.commands)[1])
        super().format_epilog(ctx, formatter)


class Tasks(click.RichGroup):
    """`unrolled train`: one subcommand per task, built from the task's config when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(discovery.find())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in discovery.find():
            return None
        try:
            return _train_command(discovery.get(cmd_name))
        except UnrolledError as error:
            return _unusable(cmd_name, error)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in discovery.find() and not args[0].startswith("-"):
            tasks = discovery.usable()
            raise click.UsageError(f"no task {args[0]!r}; there is: {', '.join(tasks)}.{nearest(args[0], tasks)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="unrolled")
def cli() -> None:
    """Recurrent networks for PyTorch: train one on your data, and use it.

    Begin with: unrolled demo, or unrolled train language-model TEXT.txt
    """


@cli.group(cls=Tasks, no_args_is_help=True)
def train() -> None:
    """Train a task on data. `unrolled train TASK --help` lists its settings."""


@cli.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("task", required=False)
@click.option(
    "--run", metavar="FOLDER", type=click.Path(path_type=Path), help="Folder to make.  [default: runs/TASK-demo-<date>]"
)
@click.option("--quiet", is_flag=True, help="Show nothing but errors.")
@click.pass_context
def demo(context: click.Context, task: str | None, run: Path | None, quiet: bool) -> None:
    """See a task work: its own example, in under three minutes. Without TASK, list the examples.

    unrolled demo language-model
    """
    given = [*([task] if task and task.startswith("-") else []), *context.args]
    if given:
        name = task if task in discovery.find() else "TASK"
        raise click.UsageError(
            f"a demo has its own data and settings, got {' '.join(given)}. With yours it is: unrolled train {name} DATA... "
            f"(unrolled train {name} --help lists the settings)"
        )
    if task is None:
        demos = {name: one.demo_summary for name, one in discovery.find().items() if one.demo_summary is not None}
        print_values(demos, as_json=False)
        click.echo("\nSee one with: unrolled demo TASK", err=True)
        return
    from unrolled import tasks
    from unrolled.progress import Progress

    progress = Progress(quiet)
    outcome, preview = tasks.demo(task, run=run, progress=progress)
    _ended(task, outcome, progress, preview)
    if preview and preview.answer and not quiet and sys.stdin.isatty() and sys.stdout.isatty():
        click.echo("\nType a line of your own; an empty one ends.")
        while line := click.prompt("", default="", show_default=False, prompt_suffix="> "):
            click.echo(preview.answer(line))


def _settings(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE ...` as a dictionary; names as on the command line or as in Python."""
    for value in values:
        if not value.partition("=")[0].strip() or "=" not in value:
            raise click.UsageError(f"--set {value}: expected NAME=VALUE.")
    pairs = [value.partition("=") for value in values]
    names = [name.strip().replace("-", "_") for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"--set {twice[0]}: expected one value, got {names.count(twice[0])}. Leave out all but one.")
    return {name: value.strip() for name, (_, _, value) in zip(names, pairs, strict=True)}


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_settings,
    help="Evaluate with another setting than the run's; may be repeated. Which can be set goes by the task, and any other name "
    "lists them; those that shape the model stay.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw the figures of tasks that have pictures of them, such as which label was taken for which.",
)
def evaluate(run: Path, data: tuple[str, ...], settings: dict[str, str], as_json: bool, show: Path | None) -> None:
    """Measure a trained model on DATA it has not seen.

    unrolled evaluate runs/my-run held-out.txt --json
    """
    from unrolled.progress import Progress
    from unrolled.tasks import load

    model = load(run, **settings)
    draw = getattr(model, "draw_figures", None)
    if show and draw is None:
        raise UnrolledError(
            f"--show: expected a run whose figures have pictures, such as labelling's, got {run}. Leave it out."
        )
    with Progress().counting() as report:
        metrics = model.evaluate(*data, report=report)
    if odd := [
        f"{name} is {value}" for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)
    ]:
        raise UnrolledError(
            f"{run}: {', '.join(odd)}: the data has numbers that are far larger than those of training, or the model's "
            "weights are damaged."
        )
    print_values(metrics, as_json)
    if show and draw:
        draw(metrics, show)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", metavar="FILE.onnx", type=click.Path(path_type=Path), help="[default: RUN/model.onnx]")
def export(run: Path, output: Path | None) -> None:
    """Write a trained model as ONNX, for other runtimes; its state goes in and comes out, so it streams there too.

    Prints the path of each file.
    """
    from unrolled.tasks import load

    written = load(run).export(output or run / "model.onnx")
    for path in written if isinstance(written, list) else [written]:
        click.echo(path)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(run: Path, as_json: bool) -> None:
    """Show what is in a run folder: settings, parameters, how training went. --json has every tensor and every evaluation."""
    from unrolled import tasks
    from unrolled.inspection.run_info import describe, shortened

    facts = describe(run) | tasks.about(run)
    print_values(facts if as_json else shortened(facts), as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show what this machine has for recurrent layers, and what to fix."""
    from unrolled.inspection.doctor import describe

    print_values(describe(), as_json)


@cli.command()
def bench() -> None:
    """Time our layers beside torch.nn's on this machine: about half a minute."""
    from unrolled import kernels
    from unrolled.inspection.speed import short_table

    if not kernels.available():
        raise UnrolledError(f"nothing to measure, the compiled kernels are not here: {kernels.why_not()}")
    for line in short_table():
        click.echo(line)


cli.add_command(inspect)


def main() -> None:
    """The `unrolled` command: run it, and turn errors into one line and an exit code."""
    from unrolled.errors import DivergenceError

    # Threads that wait by spinning starve each other as soon as anything else wants a core: training beside one busy
    # process made 32 steps in the time of 150 without. Must be said before torch loads its OpenMP runtime.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if "RANK" in os.environ:  # one of several processes: torch warns of what is meant so, once in each
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _keep_freed_memory()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this: what is printed goes nowhere
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open until the process ends)
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        if os.environ.get("RANK", "0") != "0":  # the first of the processes says it
            sys.exit(error.exit_code)
        _fail(error.format_message(), error.exit_code)
    except UnrolledError as error:
        if error.everywhere and os.environ.get("RANK", "0") != "0":  # the first of the processes says it
            sys.exit(1 if isinstance(error, DivergenceError) else 2)
        text = error.with_flags() if isinstance(error, ConfigError) else str(error)
        _fail(text, 1 if isinstance(error, DivergenceError) else 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and isinstance(error.filename, (str, bytes)):  # a task of somebody's own did not look
            _fail(f"{os.fsdecode(error.filename)}: cannot be read or written ({error.strerror}).", 2)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (or Python tries once more at the end)
            _fail("could not write: the disk, or what standard output goes to, is full.", 2)
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            _fail("not enough memory. Make the model, the batch or what is asked for smaller.", 2)
        _fail(_unexpected(error), 1)


def _unexpected(error: Exception) -> str:
    """What is said of a fault of ours, whose traceback goes to a file."""
    what = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="unrolled-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"unrolled {__version__}, {sys.version}\n{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    except OSError:
        return f"{what}. This is a fault in unrolled: please report it to its maintainers, with the command that you gave."
    return f"{what}. This is a fault in unrolled: please report it to its maintainers, with the file {file.name}."


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, instead of handing large pieces back to the system.

    Getting the same pages again at every step took half the time of a training step with a CNN. A whole process decides
    this for itself, so the command does and the package does not. Only glibc knows these settings.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: take nothing by mmap, which would be given back when freed
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap


def _unusable(task: str, error: UnrolledError) -> click.Command:
    """Stands in the list for a task that cannot be used, and says why."""

    def fail() -> None:
        raise error

    ignored = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.RichCommand(name=task, callback=fail, help=str(error), context_settings=ignored)


def _train_command(task: TaskPackage) -> click.Command:
    """`unrolled train TASK`, its flags made from the fields of the task's config and their texts."""
    from unrolled import config
    from unrolled.tasks import config_class

    settings = config_class(task.name)

    def run_it(**given: Any) -> None:
        _train(task.name, **given)

    parameters: list[click.Parameter] = [click.RichArgument(["data"], nargs=-1, metavar="DATA...")]
    folder = click.Path(path_type=Path)
    for name, metavar, text in (
        ("--run", "FOLDER", f"Folder to make for the trained model.  [default: runs/{task.name}-<date>]"),
        ("--recipe", "FILE.toml", "Settings from a file; flags override them."),
        ("--resume", "FOLDER", "Go on with a run that was stopped; its settings hold."),
    ):
        parameters.append(click.RichOption([name], metavar=metavar, type=folder, help=text, panel="Run"))
    parameters.append(click.RichOption(["--quiet"], is_flag=True, help="Show nothing but errors.", panel="Run"))
    for name, field in settings.model_fields.items():
        if name == "data":
            continue
        flag, default = name.replace("_", "-"), field.get_default()
        kind = field.annotation
        panel = "Training" if name in config.TrainingConfig.model_fields else "Data and model"
        shown = "" if default is None or default == () else f"  [default: {str(default).lower() if kind is bool else default}]"
        text = (field.description or "") + shown
        names = [f"--{flag}/--no-{flag}", name] if kind is bool else [f"--{flag}", name]
        # Values are checked by the config, which names all problems at once; hence plain strings here.
        options: dict[str, Any] = {"is_flag": True, "default": None} if kind is bool else {"metavar": _metavar(kind)}
        if typing.get_origin(kind) is tuple:  # given once for each
            options, text = {"metavar": _metavar(kind), "multiple": True, "default": None}, field.description or ""
        parameters.append(click.RichOption(names, help=text, panel=panel, **options))
    about = f"{task.summary}\n\nDATA: {settings.model_fields['data'].description}"
    return click.RichCommand(name=task.name, callback=run_it, params=parameters, help=about)


def _train(
    task: str,
    data: tuple[str, ...],
    run: Path | None,
    recipe: Path | None,
    resume: Path | None,
    quiet: bool,
    **flags: Any,
) -> None:
    from unrolled import tasks
    from unrolled.progress import Progress

    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    progress = Progress(quiet)
    if resume:
        if run or recipe:
            raise click.UsageError("--resume goes on with a run as it was begun; leave out --run and --recipe.")
        if data:
            given["data"] = data
        outcome = tasks.resume(resume, task=task, progress=progress, **given)
    else:
        outcome = tasks.train(task, list(data), run=run, recipe=recipe, progress=progress, **given)
    _ended(task, outcome, progress)


def _ended(task: str, outcome: Outcome, progress: Progress, preview: Preview | None = None) -> None:
    """What is shown when training is over; the run's own preview if no other is given."""
    from unrolled import tasks

    if outcome.reason == "interrupted":
        progress.say(
            f"\nInterrupted at step {outcome.counters.step:,}; everything is saved. Go on with:\n"
            f"  unrolled train {task} --resume {outcome.folder}"
        )
        sys.exit(130)
    if not progress.console.quiet:
        shown: Preview = preview or tasks.load(outcome.folder).preview()
        progress.panel(shown.text, shown.title)
        progress.table(
            {
                "ended": f"{outcome.reason} after {outcome.counters.step:,} steps, {outcome.counters.seconds:.0f} s",
                **{name.replace("_", " "): f"{value:.4f}" for name, value in outcome.metrics.items()},
                **({"measured on": shown.measured_on} if shown.measured_on else {}),
                "loss curve": outcome.folder / "loss.png",
                "run folder": outcome.folder,
            }
        )
        progress.say("\n".join(["\nTry next:", *(f"  {command}" for command in shown.commands)]))


def _metavar(kind: Any) -> str:
    """`rnn|lstm|gru` for a choice, else the kind of number."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(options)
    plain = options[0] if options else kind
    return {int: "INTEGER", float: "NUMBER"}.get(typing.get_args(plain)[0] if typing.get_args(plain) else plain, "TEXT")


def _fail(message: str, code: int) -> typing.NoReturn:
    click.echo("error: " + "\n       ".join(message.splitlines()), err=True)
    sys.exit(code)
