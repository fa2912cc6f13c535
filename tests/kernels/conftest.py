import pytest

from unrolled.kernels import native

if not native.available():
    collect_ignore_glob = ["test_[!b]*.py"]  # test_built.py says whether that is right


@pytest.fixture(params=native.isas() if native.available() else [])
def isa(request):
    before = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(before)


@pytest.fixture
def threads():
    """Set the number of threads for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
