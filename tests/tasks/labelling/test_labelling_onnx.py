"""A labeller's ONNX file gives in onnxruntime the scores that the model gives here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_labelling_model import ENCODINGS, SETTINGS, SEVERAL, model

from tolerance import assert_same
from unrolled.errors import ExportError
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.export import export
from unrolled.tasks.labelling.model import Labeller

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, inputs: dict[str, torch.Tensor], **state: np.ndarray) -> dict[str, torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    arrays = {name: one.numpy() for name, one in inputs.items() if name in names}
    arrays["lengths"] = arrays["lengths"].astype(np.int32)
    found = session.run(None, {**arrays, **state})
    return {one.name: torch.from_numpy(value) for one, value in zip(session.get_outputs(), found, strict=True)}


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("settings", [one for one in SETTINGS if one["cell"] != "none"])
def test_the_scores_are_the_models(tmp_path: Path, kind: str, settings: dict) -> None:
    made = model(kind, **settings)
    path, inputs = export(made, ENCODINGS[kind], tmp_path / "model.onnx"), ENCODINGS[kind].collate(SEVERAL[kind])
    streams = made.per_step and not made.layers.bidirectional
    state = {"h_0": np.zeros((made.layers.num_layers, 3, 7), np.float32)} if streams else {}
    scores, expected = run(path, inputs, **state)["scores"], made(inputs).scores
    for row, length in enumerate(inputs["lengths"].tolist() if made.per_step else [None] * 3):
        assert_same(scores[row, :length] if length else scores[row], expected[row, :length] if length else expected[row])


def test_one_direction_streams_by_its_state(tmp_path: Path) -> None:
    made, encoding = model("numbers", bidirectional=False), ENCODINGS["numbers"]
    path, whole = export(made, encoding, tmp_path / "model.onnx"), SEVERAL["numbers"][0]
    state = {"h_0": np.zeros((1, 1, 7), np.float32), "c_0": np.zeros((1, 1, 7), np.float32)}
    parts = []
    for step in range(len(whole)):
        found = run(path, encoding.collate([whole[step : step + 1]]), **state)
        state = {f"{part}_0": found[f"{part}_n"].numpy() for part in "hc"}
        parts.append(found["scores"])
    assert_same(torch.cat(parts, 1), made(encoding.collate([whole])).scores)


@pytest.mark.parametrize("sides", [(9, 7), (24, 32)])
@pytest.mark.parametrize("settings", [{}, {"per": "sequence", "cell": "gru"}, {"bidirectional": False}])
def test_pictures_go_through_the_cnn(tmp_path: Path, sides: tuple[int, int], settings: dict) -> None:
    encoding = Encoding(kind="video", labels=["a", "b"], mean=[100.0] * 3, deviation=[50.0] * 3, shape=[*sides, 3])
    config = Config(**{"kind": "video", "hidden_size": 7, "front_size": 5, "dropout": 0, **settings})
    torch.manual_seed(0)
    made = Labeller(config, encoding).eval()
    for norm in (one for one in made.front.body if isinstance(one, torch.nn.GroupNorm)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    chance = np.random.default_rng(0)
    for count, length in ((2, 4), (3, 2)):  # the file says neither how many sequences there are nor how long they are
        several = [chance.uniform(0, 255, (length - n % 2, *encoding.shape)).astype(np.float32) for n in range(count)]
        inputs = encoding.collate(several)
        state = {f"{part}_0": np.zeros((1, count, 7), np.float32) for part in "hc"} if "bidirectional" in settings else {}
        path = export(made, encoding, tmp_path / "model.onnx")
        scores, expected = run(path, inputs, **state)["scores"], made(inputs).scores
        for row, one in enumerate(several):
            own = (row, slice(len(one))) if made.per_step else row
            assert_same(scores[own], expected[own])


def test_a_crfs_weights_are_given_beside_the_scores(tmp_path: Path) -> None:
    made, encoding = model("characters", crf=True), ENCODINGS["characters"]
    torch.nn.init.normal_(made.crf.transitions)
    found = run(export(made, encoding, tmp_path / "model.onnx"), encoding.collate(["ab"]))
    assert_same(found["transitions"], made.crf.transitions)


def test_the_baseline_without_recurrence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="without recurrence"):
        export(model("numbers", cell="none"), ENCODINGS["numbers"], tmp_path / "model.onnx")
