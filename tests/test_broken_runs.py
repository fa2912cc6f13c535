"""Whatever a run folder holds, a command works or says in one line what is wrong: a folder may come from anywhere.

Files of real runs are changed in every way that Hypothesis finds, and commands run on them. `UNROLLED_BROKEN_RUNS=10000` tries
so many instead of a few.
"""

import copy
import json
import os
import shutil
import struct
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import TINY

from unrolled import cli, tasks

CASES = int(os.environ.get("UNROLLED_BROKEN_RUNS", "60"))
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3.5, 255, 256, 10**6, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18), 1e-320, 1e308),
    *(float("nan"), float("inf"), "", "x", "O", "uint8", "uint32", "char", "word", "captioning", "é\n", "\ud800", "/dev/zero"),
    *([], {}, [[]], [1, 2], {"a": 1}, ["ab", ""], [None]),
]
"""What a value in JSON is replaced by."""
USES = {
    "language-model": (["text.txt"], ["sample", "--seed", "1"]),
    "captioning": (["captions.tsv"], ["caption", "{data}/0.png", "--json"]),
    "translation": (["source.txt", "target.txt"], ["translate", "{data}/source.txt", "--json"]),
    "labelling": (["words.conll"], ["label", "{data}/words.conll"]),
}
"""Of each task the data that its runs are measured on, and what else its runs do."""


@pytest.fixture(scope="module")
def runs(real_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with steps left to train, and `data` beside them."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "data").mkdir()
    (folder / "data" / "text.txt").write_text(real_text.read_text()[:3000])
    for n in range(12):
        Image.new("RGB", (48, 48), ("red", "green", "blue")[n % 3]).save(folder / "data" / f"{n}.png")
    captions = "".join(f"{n}.png\ta {('red', 'green', 'blue')[n % 3]} wall\n" for n in range(12))
    (folder / "data" / "captions.tsv").write_text(captions)
    short = {**TINY, "max_steps": 2, "evaluate_every": 1, "save_every": 1, "hidden_size": 8, "workers": 0}
    text = {**short, "k1": 4}
    for name, more in {"char": {}, "bpe": {"unit": "bpe", "vocabulary_size": 300}, "word": {"unit": "word"}}.items():
        tasks.train("language-model", folder / "data" / "text.txt", run=folder / name, **text, **more)
    del short["k1"]
    few = {"encoder": "small", "photo_size": 32, "fine_tune_from": 1, "minimum_count": 1, "longest": 4}
    tasks.train("captioning", folder / "data", run=folder / "captioning", **short, **few)
    pairs = [(f"{n} red walls and {n + 1} blue ones", f"{n} rote Mauern und {n + 1} blaue") for n in range(40)]
    for side, several in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
        (folder / "data" / f"{side}.txt").write_text("\n".join(several))
    sides = [folder / "data" / "source.txt", folder / "data" / "target.txt"]
    tasks.train("translation", sides, run=folder / "translation", **short, vocabulary_size=300, longest=40)
    (folder / "data" / "words.conll").write_text("".join(f"{n}\tNUM\nwalls\tNOUN\n\n" for n in range(20)))
    tasks.train("labelling", folder / "data" / "words.conll", run=folder / "labelling", **short, character_size=4)
    for run in folder.iterdir():
        if (run / "config.json").exists():
            content = json.loads((run / "config.json").read_text())
            content["config"]["max_steps"] = 3
            (run / "config.json").write_text(json.dumps(content))
            shutil.rmtree(run / "tensorboard")
            (run / "loss.png").unlink()
    return {run.name: run for run in folder.iterdir()}


def places(content: Any, here: tuple = ()) -> list[tuple]:
    """The paths of all values in parsed JSON, of long lists and objects the first ones."""
    inside = (
        list(content.items()) if isinstance(content, dict) else list(enumerate(content)) if isinstance(content, list) else []
    )
    return [here, *(path for key, value in inside[:30] for path in places(value, (*here, key)))]


def break_json(content: bytes, draw: Callable[[st.SearchStrategy], Any]) -> bytes:
    """Other values, missing and unknown keys, in one to three places; or nested deeply."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):  # broken already
        return content
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(parsed)))
        if not path:
            parsed = copy.deepcopy(draw(st.sampled_from([parsed, *VALUES])))
            break
        inside = parsed
        for key in path[:-1]:
            inside = inside[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "replace":
            inside[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif what == "remove":
            del inside[path[-1]]
        elif isinstance(inside, dict):
            inside["unknown"] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            inside.append(copy.deepcopy(draw(st.sampled_from(VALUES))))
    if draw(st.integers(0, 30)) == 0:
        return b'{"a":' * 100_000
    return json.dumps(parsed).encode()


def break_tensors(content: bytes, draw: Callable[[st.SearchStrategy], Any]) -> bytes:
    """Another header of a safetensors file over the same bytes, or numbers that are odd."""
    try:
        json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]["facts"].encode()
    except (ValueError, RecursionError, struct.error, KeyError, TypeError, AttributeError):  # broken already
        return content
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], bytearray(content[8 + length :])
    if draw(st.booleans()):
        begin = draw(st.integers(0, max(0, len(data) - 4)))
        size = draw(st.sampled_from([1, 4, 64, len(data)]))
        data[begin : begin + size] = draw(st.sampled_from([b"\xff", b"\0", b"\x7f"])) * len(data[begin : begin + size])
    elif draw(st.booleans()):
        parsed = json.loads(header)
        facts = break_json(parsed["__metadata__"]["facts"].encode(), draw)
        header = json.dumps({**parsed, "__metadata__": {"facts": facts.decode()}}).encode()
    else:
        header = break_json(header, draw)
    length = draw(st.sampled_from([len(header)] * 8 + [0, 1, 2**40, 2**63]))
    return struct.pack("<Q", length) + header + data


def break_bytes(content: bytes, draw: Callable[[st.SearchStrategy], Any]) -> bytes:
    """Shorter, longer, or with some bytes changed."""
    what, at = draw(st.sampled_from(["shorten", "lengthen", "change"])), draw(st.integers(0, len(content)))
    if what == "shorten":
        return content[:at]
    noise = draw(st.binary(min_size=1, max_size=12))
    return content + noise if what == "lengthen" else content[:at] + noise + content[at + len(noise) :]


def break_file(path: Path, draw: Callable[[st.SearchStrategy], Any]) -> None:
    """Change a file in one way."""
    what = draw(st.sampled_from(["content"] * 12 + ["remove", "folder", "pipe", "zeros"]))
    if what == "content":
        own = {".json": break_json, ".safetensors": break_tensors}.get(path.suffix, break_bytes)
        change = draw(st.sampled_from([own, own, own, break_bytes]))
        path.write_bytes(change(path.read_bytes(), draw))
        return
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "zeros":
        path.symlink_to("/dev/zero")


def answer(words: list[str]) -> str:
    """What is wrong with how a command ended; nothing if it worked or gave one line."""
    runner, code = CliRunner(), 0
    with patch("sys.argv", ["unrolled", *words]), patch.object(cli, "_unexpected", lambda error: traceback.format_exc()):
        with runner.isolation() as (out, err, _):
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                return traceback.format_exc()
        shown, said = out.getvalue().decode(), err.getvalue().decode()
    if code not in (0, 2) and "the loss is" not in said and "gradient's norm" not in said:
        return f"exit code {code}: {said}"
    if "Traceback" in said or sum(line.startswith("error:") for line in said.splitlines()) != (code != 0):
        return said
    if code == 0 and "--json" in words:
        try:
            for line in shown.splitlines():
                json.loads(line, parse_constant=lambda constant: 1 / 0)
        except (ValueError, ZeroDivisionError):
            return f"no JSON: {shown}"
    return ""


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES < 100,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(drawn=st.data())
def test_commands_on_a_broken_run_work_or_say_what_is_wrong_in_one_line(runs: dict[str, Path], drawn: st.DataObject) -> None:
    draw = drawn.draw
    name = draw(st.sampled_from([name for name in runs if name != "data"]))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(runs[name], Path(folder) / "run"))
        for path in draw(st.lists(st.sampled_from(sorted(p for p in run.rglob("*") if p.is_file())), min_size=1, max_size=2)):
            if path.is_file() and not path.is_symlink():
                break_file(path, draw)
        task = name if name in ("captioning", "translation", "labelling") else "language-model"
        data, use = USES[task]
        verbs = [
            ["info", str(run), "--json"],
            ["evaluate", str(run), *(str(runs["data"] / file) for file in data), "--json"],
            [use[0], str(run), *(word.format(data=runs["data"]) for word in use[1:])],
            ["export", str(run)],
            ["train", task, "--resume", str(run), "--quiet"],
        ]
        words = draw(st.sampled_from(verbs))
        wrong = answer(words)
    assert not wrong, f"{words}: {wrong}"
