"""Music as labelling: the notes that sound at a step say which ones sound at the next (Boulanger-Lewandowski et al. 2012).

    python examples/chorales.py jsb-chorales-quarter.json
    unrolled train labelling train.csv --validation valid.csv --recipe recipes/jsb_chorales.toml

The file is {"train": [chorale, ...], "valid": ..., "test": ...}, a chorale a list of steps, a step a list of MIDI notes. Of
each part it writes a table: the chorale, a column of 0 and 1 for each key of the piano, and as label the notes of the step that
follows. As in Bai, Kolter and Koltun (2018) the first step of a chorale is given, not predicted.
"""

import csv
import json
import sys
from itertools import pairwise
from pathlib import Path

KEYS = range(21, 109)


def write(chorales: list[list[list[int]]], path: Path) -> None:
    """One row for each step but the last of each chorale."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence", *(f"note_{key}" for key in KEYS), "label"])
        for number, chorale in enumerate(chorales):
            for now, following in pairwise(chorale):
                table.writerow([number, *(int(key in now) for key in KEYS), "|".join(map(str, sorted(set(following))))])


if __name__ == "__main__":
    for part, chorales in json.loads(Path(sys.argv[1]).read_text()).items():
        write(chorales, Path(f"{part}.csv"))
