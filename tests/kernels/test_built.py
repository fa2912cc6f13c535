"""A build that failed quietly must not pass for a machine without a compiler."""

import os
import shutil

import pytest

from unrolled.kernels import library


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here")
@pytest.mark.skipif(os.environ.get("UNROLLED_KERNELS") == "0", reason="kernels switched off")
def test_where_there_is_a_compiler_there_are_kernels() -> None:
    assert library.available(), library.why_not()
