# make demo    the example site on a private PostgreSQL and a private Apache, at http://127.0.0.1:8080/
# make test    every test: unit, real PostgreSQL, real Apache
# make check   ruff, mypy --strict, layer rules
# make bench   what the pool and the importer cost
# make fuzz    the state machines of the unit tests, much longer (FUZZ_STEPS=2000)
# make yardstick  mod_python's own test suite, stock and with ours (MOD_PYTHON_TEST=directory of its test.py)
#
# Each installs what it needs and does not find: from Debian with apt-get, for development from PyPI into .venv.

# Debian's own Python: the one that mod_python embeds. Another python3 may come first in PATH.
DEBIAN_PYTHON := /usr/bin/python3
PYTHON := .venv/bin/python
PIP := $(PYTHON) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e

SERVE_PACKAGES := apache2-bin libapache2-mod-python postgresql python3-psycopg2 python3-werkzeug iso-codes
TEST_PACKAGES := $(SERVE_PACKAGES) python3-venv

FUZZ_STEPS ?= 2000

.PHONY: demo test check bench fuzz yardstick venv clean

# No virtual environment: the demo needs nothing that Debian does not have.
demo:
	@sh .ci/debian $(SERVE_PACKAGES)
	@exec $(DEBIAN_PYTHON) -m mpool.tools serve handlers/examples $(ARGS)

test: venv
	$(PYTHON) -m pytest tests/unit tests/postgres tests/apache $(ARGS)

check: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/unit/test_layers.py

# The peers that the figures stand beside; what is missing all the same (mod_wsgi, Flask) is left out of the tables.
bench: .venv/installed-bench
	$(PYTHON) -m pytest -q -s tests/bench $(ARGS)

fuzz: venv
	FUZZ_STEPS=$(FUZZ_STEPS) $(PYTHON) -m pytest tests/unit $(ARGS)

# Not in `make test`: the suite is not ours, and it is not among Debian's packages.
yardstick: venv
	$(PYTHON) tests/yardstick/run.py $(ARGS)

venv: .venv/installed

.venv/installed: setup.py pyproject.toml
	@sh .ci/debian $(TEST_PACKAGES)
	test -x $(PYTHON) || $(DEBIAN_PYTHON) -m venv --system-site-packages .venv
	$(PIP) '.[dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	@sh .ci/debian apache2-utils
	$(PIP) '.[bench]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
