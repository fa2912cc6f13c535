from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from tests.tasks.captioning.tiny import TINY

from unrolled import tasks


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of coloured shapes with two captions each."""
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "images").mkdir()
    lines = []
    for shape in ("circle", "square"):
        for colour in ("red", "green", "blue", "yellow"):
            for place, where in ((20, "left"), (120, "right")):
                name = f"{colour}-{shape}-{where}.png"
                photo = Image.new("RGB", (224, 160), "white")
                corners = (place, 40, place + 80, 120)
                draw = ImageDraw.Draw(photo)
                draw.ellipse(corners, fill=colour) if shape == "circle" else draw.rectangle(corners, fill=colour)
                photo.save(folder / "images" / name)
                lines += [f"{name}\ta {colour} {shape}", f"{name}\tthe {shape} is {colour}."]
    (folder / "captions.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def captioner(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("captioner") / "run"
    settings = {**TINY, "max_steps": 120, "evaluate_every": 60, "save_every": 60, "learning_rate": 1e-2}
    tasks.train("captioning", shapes, run=folder, **settings)
    return folder
