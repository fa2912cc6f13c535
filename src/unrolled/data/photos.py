"""scikit-learn's two photos, for demos and pages: free to use where their makers are named (CC BY 2.0)."""

from __future__ import annotations

from pathlib import Path

from unrolled.errors import DataError


def sample_photos() -> tuple[Path, Path]:
    """`china.jpg`, by danielbuechele, and `flower.jpg`, by vultilion: 640 x 427 pixels.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        import sklearn
    except ModuleNotFoundError:
        raise DataError("the demo's photos are scikit-learn's: pip install 'unrolled[drawing]'") from None
    folder = Path(sklearn.__file__).parent / "datasets" / "images"
    return folder / "china.jpg", folder / "flower.jpg"
