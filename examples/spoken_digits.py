"""Spoken digits as labelling: the Free Spoken Digit Dataset, with a fifth of each digit by each speaker held out.

    python examples/spoken_digits.py recordings.tar.gz
    unrolled train labelling train.csv --validation held_out.csv --recipe recipes/fsdd.toml

It unpacks recordings called DIGIT_SPEAKER_TAKE.wav into recordings/, and writes two tables of file, label. Held out are of each
digit and speaker the last takes, a fifth of them, so that digits and speakers are balanced in both parts.
"""

import csv
import sys
import tarfile
from collections import defaultdict
from pathlib import Path


def split(names: list[str]) -> tuple[list[str], list[str]]:
    """Names to learn from, and held out."""
    takes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: int(Path(name).stem.split("_")[2])):
        digit, speaker, _ = Path(name).stem.split("_")
        takes[digit, speaker].append(name)
    learned, held_out = [], []
    for several in takes.values():
        count = len(several) - len(several) // 5
        learned += several[:count]
        held_out += several[count:]
    return learned, held_out


if __name__ == "__main__":
    with tarfile.open(sys.argv[1]) as archive:
        archive.extractall("recordings", filter="data")
    names = [str(path) for path in Path("recordings").rglob("*.wav")]
    for table, part in zip(("train.csv", "held_out.csv"), split(names), strict=True):
        with open(table, "w", newline="") as file:
            csv.writer(file).writerows([("file", "label"), *((name, Path(name).name[0]) for name in part)])
        print(f"{table}: {len(part)} recordings")
