from unrolled.kernels import native

if not native.available():
    collect_ignore_glob = ["test_*.py"]  # tests/kernels/test_built.py says whether that is right
