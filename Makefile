# Two commands do everything on a machine that has Python 3.11 or newer:
#   make demo    set up, then watch a recurrent network learn to write code
#   make test    set up, then run every check
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs pin clean

demo: .venv/installed
	$(BIN)/unrolled demo language-model

test: .venv/installed lint docs
	UNROLLED_SLOW_TESTS=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/installed: .venv/requirements pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

.venv/requirements: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and f'unrolled needs Python 3.11 or newer, this is {sys.version.split()[0]}; try make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# Renew the pinned set from pyproject.toml's open ranges; torch stays where it is until somebody moves it here.
pin:
	$(PYTHON) -m venv .venv-pin
	.venv-pin/bin/pip install --quiet torch==2.13.0 -e '.[dev]'
	echo '# The set that `make` installs and every test passes with. Made by `make pin` from the open ranges in pyproject.toml.' > requirements.txt
	.venv-pin/bin/pip freeze --exclude-editable | grep -v '^\(pip\|setuptools\)=' | sed 's/^\(torch==[^+]*\)+.*/\1/' >> requirements.txt
	rm -r .venv-pin

clean:
	rm -rf .venv site build .pytest_cache .ruff_cache .hypothesis
