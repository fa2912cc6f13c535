"""NumPy's files, .npy and .npz, without unpickling anything."""

from __future__ import annotations

import os
import zipfile
import zlib

import numpy as np

from unrolled.errors import DataError


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; that of an .npy as `array`.

    Raises:
        DataError: missing, damaged, something else, arrays of Python objects, or more than there is memory for.
    """
    try:
        opened = np.load(os.path.expanduser(path), allow_pickle=False)
        if isinstance(opened, np.ndarray):
            return {"array": opened}
        with opened:
            return dict(opened)
    except MemoryError:  # or its header is damaged, and says so much
        raise DataError(f"{path}: expected an array that fits into memory, got a larger one.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        told = " ".join(str(error).split())[:100]  # but not how to read Python objects, which NumPy takes unknown bytes for
        reason = "it has Python objects, or is something else" if "pickle" in str(error) else told
        raise DataError(f"{path}: cannot be read as a NumPy file of numbers ({reason}).") from None
