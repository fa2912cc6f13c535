import pytest

from unrolled.kernels import library

if not library.available():
    collect_ignore_glob = ["test_[!b]*.py"]  # test_built.py says whether that is right


@pytest.fixture(params=library.isas() if library.available() else [])
def isa(request):
    before = library.isa()
    library.use_isa(request.param)
    yield request.param
    library.use_isa(before)


@pytest.fixture
def threads():
    """Set the number of threads for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
