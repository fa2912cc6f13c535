"""The command line. Each command parses, calls one function of the library, and prints; torch loads only where it is used.

Data goes to stdout, progress and errors to stderr; the exit code is 2 for something the user can mend.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import typing
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import NoArgsIsHelpError

from unrolled import __version__

TASKS = {
    "language-model": "Learn to write like some text, character by character or word by word.",
    "captioning": "Learn to describe photos in a sentence.",
}
"""What there is to train, with a line each; `unrolled.tasks.TASKS` has the same names (a test holds them together)."""


BEAM = "Sentences kept while searching; 1 is greedy.  [default: the run's]"
CONSENSUS = "Draw so many too, and take the found one that agrees best with them; 0 takes the likeliest.  [default: the run's]"


class Tasks(click.RichGroup):
    """`unrolled train`: one subcommand per task, built from the task's config when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TASKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _train_command(cmd_name) if cmd_name in TASKS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in TASKS and not args[0].startswith("-"):
            from unrolled.errors import nearest

            raise click.UsageError(f"no task {args[0]!r}; there is: {', '.join(TASKS)}.{nearest(args[0], TASKS)}")
        return super().resolve_command(ctx, args)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="unrolled")
def cli() -> None:
    """Recurrent networks for PyTorch: train one on your data, and use it.

    Begin with: unrolled train language-model TEXT.txt
    """


@cli.group(cls=Tasks, no_args_is_help=True)
def train() -> None:
    """Train a task on data. `unrolled train TASK --help` lists its settings."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to go on from.")
@click.option("--length", default=500, show_default=True, type=click.IntRange(min=1), help="Tokens to write at most.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Below 1 plays safe, above 1 dares; 0 always takes the likeliest (greedy).",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw among the k likeliest tokens only.")
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Draw among the fewest likeliest tokens whose probabilities reach this.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Draw the same text again.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Weights while writing: fewer bits are faster and a little less exact.",
)
def sample(run: Path, prompt: str, **how: Any) -> None:
    """Write text with a trained language model, printed as it comes.

    unrolled sample runs/my-run --prompt "To be" --temperature 0.7
    """
    pieces = _open(run, "sample").sample(prompt, **how)
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per photo.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write a picture per photo: where it looked for each word.",
)
@click.option("--beam", type=click.IntRange(min=1), help=BEAM)
@click.option("--consensus", type=click.IntRange(min=0), help=CONSENSUS)
@click.option("--captions", default=1, show_default=True, type=click.IntRange(min=1), help="Sentences for each photo.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="Draw sentences instead of searching for the likeliest; 1 is the model as it is.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the drawing.")
def caption(run: Path, images: tuple[Path, ...], as_json: bool, show: Path | None, **how: Any) -> None:
    """Describe photos: IMAGES are files and folders.

    unrolled caption runs/my-run photo.jpg holiday/ --show pictures
    """
    from unrolled.inspection import attention_maps

    skipped: list[str] = []

    def skip(problem: str) -> None:
        skipped.append(problem)
        click.echo(f"skipped: {problem}", err=True)

    how = {name: value for name, value in how.items() if value is not None}
    for number, one in enumerate(_open(run, "caption").caption(*images, skipped=skip, show=show is not None, **how), 1):
        if show:
            attention_maps.draw(show / f"{number:04}-{Path(one.image).stem}.png", one.photo, one.words, one.weights)
        if as_json:
            told = [{"caption": caption.text, "score": round(caption.score, 4)} for caption in one.captions]
            click.echo(json.dumps({"image": one.image, "captions": told}, ensure_ascii=False))
        else:
            for caption in one.captions:
                click.echo(f"{one.image}\t{caption.text}")
    if skipped:
        click.echo(f"skipped {len(skipped):,} images that cannot be read", err=True)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1, required=True)
@click.option("--beam", type=click.IntRange(min=1), help=f"Captions: {BEAM}")
@click.option("--consensus", type=click.IntRange(min=0), help=f"Captions: {CONSENSUS}")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(run: Path, data: tuple[str, ...], as_json: bool, **how: Any) -> None:
    """Measure a trained model on DATA it has not seen.

    unrolled evaluate runs/my-run held-out.txt --json
    """
    from unrolled.progress import Progress

    how = {name: value for name, value in how.items() if value is not None}
    opened = _open(run, "caption" if how else "evaluate")
    with Progress().counting() as report:
        metrics = opened.evaluate(*data, report=report, **how)
    _print(metrics, as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", metavar="FILE.onnx", type=click.Path(path_type=Path), help="[default: RUN/model.onnx]")
def export(run: Path, output: Path | None) -> None:
    """Write a trained model as ONNX, for other runtimes; its state goes in and comes out, so it streams there too."""
    click.echo(_open(run, "export").export(output or run / "model.onnx"))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(run: Path, as_json: bool) -> None:
    """Show what is in a run folder: settings, parameters, how training went."""
    from unrolled.inspection.run_info import describe

    _print(describe(run), as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Show what this machine has for recurrent layers, and what to mend."""
    from unrolled.inspection.doctor import describe

    _print(describe(), as_json)


@cli.command()
def bench() -> None:
    """Time our layers beside torch.nn's on this machine: about half a minute."""
    from unrolled import kernels
    from unrolled.errors import UnrolledError
    from unrolled.inspection.speed import short_table

    if not kernels.available():
        raise UnrolledError(f"nothing to measure, the compiled kernels are not here: {kernels.why_not()}")
    for line in short_table():
        click.echo(line)


def main() -> None:
    """The `unrolled` command: run it, and turn errors into one line and an exit code."""
    from unrolled.errors import DivergenceError, UnrolledError

    # Threads that wait by spinning starve each other as soon as anything else wants a core: training beside one busy
    # process made 32 steps in the time of 150 without. Must be said before torch loads its OpenMP runtime.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _keep_freed_memory()
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except UnrolledError as error:
        _fail(str(error), 1 if isinstance(error, DivergenceError) else 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next step, instead of handing large pieces back to the system.

    Getting the same pages again at every step took half the time of a training step with a CNN. A whole process decides
    this for itself, so the command does and the package does not. Only glibc knows these settings.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: take nothing by mmap, which would be given back when freed
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never shrink the heap


def _train_command(task: str) -> click.Command:
    """`unrolled train TASK`, its flags made from the fields of the task's config and their texts."""
    from unrolled import config
    from unrolled.tasks import config_class

    settings = config_class(task)

    def run_it(**given: Any) -> None:
        _train(task, **given)

    parameters: list[click.Parameter] = [click.RichArgument(["data"], nargs=-1, metavar="DATA...")]
    folder = click.Path(path_type=Path)
    for name, metavar, text in (
        ("--run", "FOLDER", f"Folder to make for the trained model.  [default: runs/{task}-<date>]"),
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
        shown = "" if default is None else f"  [default: {str(default).lower() if kind is bool else default}]"
        text = (field.description or "") + shown
        names = [f"--{flag}/--no-{flag}", name] if kind is bool else [f"--{flag}", name]
        # Values are checked by the config, which names all problems at once; hence plain strings here.
        how: dict[str, Any] = {"is_flag": True, "default": None} if kind is bool else {"metavar": _metavar(kind)}
        parameters.append(click.RichOption(names, help=text, panel=panel, **how))
    about = f"{TASKS[task]}\n\nDATA: {settings.model_fields['data'].description}"
    return click.RichCommand(name=task, callback=run_it, params=parameters, help=about)


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

    given = {name: value for name, value in flags.items() if value is not None}
    progress = Progress(quiet)
    if resume:
        if run or recipe:
            raise click.UsageError("--resume goes on with a run as it was begun; leave out --run and --recipe.")
        if data:
            given["data"] = data
        outcome = tasks.resume(resume, task=task, progress=progress, **given)
    else:
        outcome = tasks.train(task, list(data), run=run, recipe=recipe, progress=progress, **given)
    if outcome.reason == "interrupted":
        progress.say(
            f"\nInterrupted at step {outcome.counters.step:,}; everything is saved. Go on with:\n"
            f"  unrolled train {task} --resume {outcome.folder}"
        )
        sys.exit(130)
    if not quiet:
        preview = tasks.load(outcome.folder).preview()
        progress.panel(preview.text, preview.title)
        progress.table(
            {
                "ended": f"{outcome.reason} after {outcome.counters.step:,} steps, {outcome.counters.seconds:.0f} s",
                **{name.replace("_", " "): f"{value:.4f}" for name, value in outcome.metrics.items()},
                "loss curve": outcome.folder / "loss.png",
                "run folder": outcome.folder,
            }
        )
        progress.say("\n".join(["\nTry next:", *(f"  {command}" for command in preview.commands)]))


def _metavar(kind: Any) -> str:
    """`rnn|lstm|gru` for a choice, else the kind of number."""
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(options)
    plain = options[0] if options else kind
    return {int: "INTEGER", float: "NUMBER"}.get(typing.get_args(plain)[0] if typing.get_args(plain) else plain, "TEXT")


def _open(run: Path, verb: str) -> Any:
    """The trained model of a run folder, if its task can do that."""
    from unrolled.errors import RunError
    from unrolled.tasks import load

    loaded = load(run)
    if not hasattr(loaded, verb):
        able = [name for name in cli.commands if hasattr(loaded, name)]
        raise RunError(f"{run}: a run of this task cannot {verb}. It can {', '.join(able)}.")
    return loaded


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        lines = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else [_short(value)]
        for number, line in enumerate(lines):
            click.echo(f"{name if number == 0 else '':<{width}}  {line}")


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _fail(message: str, code: int) -> typing.NoReturn:
    click.echo("\n".join(f"error: {line}" for line in message.splitlines()), err=True)
    sys.exit(code)
