"""How closely two computations of the same thing must agree: the one table that every test uses."""

import torch

TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}
# Of the streaming engine against float64, six steps of freshly initialised layers: bf16 keeps 8 bits of a number, int8 7 of the
# largest in a row.
STREAMING = {"fp32": 1e-5, "bf16": 1e-2, "int8": 3e-2}


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within the tolerance of the coarser of the two dtypes, shapes included."""
    dtype = max(actual.dtype, expected.dtype, key=lambda dtype: TOLERANCE[dtype]["atol"])
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    torch.testing.assert_close(actual.double(), expected.double(), **TOLERANCE[dtype])
