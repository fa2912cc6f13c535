"""A labeller's ONNX file gives in onnxruntime the scores that the model gives here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_labelling_model import ENCODINGS, SETTINGS, SEVERAL, model

from tolerance import assert_same
from unrolled.errors import ExportError
from unrolled.tasks.labelling.export import export

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


def test_a_crfs_weights_are_given_beside_the_scores(tmp_path: Path) -> None:
    made, encoding = model("characters", crf=True), ENCODINGS["characters"]
    torch.nn.init.normal_(made.crf.transitions)
    found = run(export(made, encoding, tmp_path / "model.onnx"), encoding.collate(["ab"]))
    assert_same(found["transitions"], made.crf.transitions)


def test_the_baseline_without_recurrence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="without recurrence"):
        export(model("numbers", cell="none"), ENCODINGS["numbers"], tmp_path / "model.onnx")
