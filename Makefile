# make demo    the example site on a private PostgreSQL and a private Apache, at http://127.0.0.1:8080/
# make test    every test: unit, real PostgreSQL, real Apache
# make check   ruff, mypy --strict, layer rules
# make test-docker      every test again inside the Docker image, and the image's own tests; test-docker-sid: on Debian sid
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
TEST_PACKAGES := $(SERVE_PACKAGES) pgbouncer python3-venv

WSGI := libapache2-mod-wsgi-py3
FUZZ_STEPS ?= 2000

.PHONY: demo test check test-docker test-docker-sid bench fuzz yardstick packages venv clean

# No virtual environment: the demo needs nothing that Debian does not have.
demo:
	@sh .ci/debian $(SERVE_PACKAGES)
	@exec $(DEBIAN_PYTHON) -m mpool.tools serve handlers/examples $(ARGS)

test: venv
	$(PYTHON) -m pytest tests/unit tests/postgres tests/apache $(ARGS)

# As root, where no Docker engine answers: one is started for just this.
test-docker: venv
	PYTHON=$(PYTHON) sh docker/test.sh bookworm

test-docker-sid: venv
	PYTHON=$(PYTHON) sh docker/test.sh sid

check: venv
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/unit/test_layers.py

# The peers that the figures stand beside come along.
bench: .venv/installed-bench .venv/installed-wsgi
	$(PYTHON) -m pytest -q -s tests/bench $(ARGS)

fuzz: venv
	FUZZ_STEPS=$(FUZZ_STEPS) $(PYTHON) -m pytest tests/unit $(ARGS)

# Not in `make test`: the suite is not ours, and it is not among Debian's packages.
yardstick: venv
	$(PYTHON) tests/yardstick/run.py $(ARGS)

# What the tests need of Debian; in a container, it is all that there is to a machine.
packages:
	@sh .ci/debian $(TEST_PACKAGES)

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

# Only unpacked, since the package would enable the module in the system's own Apache. A copy of its own of what runs
# inside it, since the serving user may not be able to read .venv.
.venv/installed-wsgi: .venv/installed
	rm -rf .venv/wsgi && mkdir -p .venv/wsgi
	cd .venv/wsgi && { apt-get download -qq $(WSGI) || { apt-get update -qq && apt-get download -qq $(WSGI); }; }
	cd .venv/wsgi && dpkg -x $(WSGI)_*.deb .
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .venv/wsgi/python \
		Flask 'psycopg[binary]' psycopg_pool
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
