from unrolled.kernels import library

if not library.available():
    collect_ignore_glob = ["test_*.py"]  # tests/kernels/test_built.py says whether that is right
