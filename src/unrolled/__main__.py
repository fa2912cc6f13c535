"""`python -m unrolled` is the `unrolled` command."""

from unrolled.cli import main

main()
