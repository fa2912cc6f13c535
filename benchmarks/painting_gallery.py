"""The pictures of docs/tasks/painting.md: `python -m benchmarks.painting_gallery docs/tasks`.

scikit-learn's two photos, each painted with 50, 200 and 1,000 strokes and beside them the photo, and how one of them grows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from unrolled.data.photos import sample_photos
from unrolled.inspection import animation, sheets
from unrolled.strokes.painting import as_image
from unrolled.tasks.painting.task import SHIPPED, Run

BUDGETS = (50, 200, 1000)
SIDE, FILM, FRAMES = 480, 192, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--run", type=Path, default=SHIPPED, help="another painter than the one that is built in")
    asked = parser.parse_args()
    painter = Run(asked.run)
    for photo in sample_photos():
        paintings = [painter.paint(photo, budget) for budget in BUDGETS]
        shown = Image.open(photo).convert("RGB").resize((SIDE, round(SIDE * paintings[0].height_to_width)))
        four = sheets.grid([*(one.image(SIDE) for one in paintings), shown], columns=2, ground="white")
        four.save(asked.folder / f"painting-{photo.stem}.jpg", quality=80)
    frames = [as_image(one) for one in paintings[-1].growing(FILM, FRAMES)]
    animation.write(asked.folder / "painting-film.gif", frames, seconds=1 / 8)


if __name__ == "__main__":
    main()
