# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
PY := .venv/bin/python
export MLFLOW_DISABLE_TELEMETRY ?= true
# tiny models gain nothing from a second thread, and two that spin beside other work are many times slower
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint ui clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/ready
	$(PY) -m distill.demo

test: .venv/ready
	$(ONE_THREAD) $(PY) -m pytest

test-slow: .venv/ready
	$(ONE_THREAD) $(PY) -m pytest -m slow

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# one worker and no job runner: a third of the memory and start-up time of the defaults
ui: .venv/ready
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false .venv/bin/mlflow server --workers 1 --host 127.0.0.1 --port 5000 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlruns/mlflow.db}"

clean:
	rm -rf .venv outputs .pytest_cache .ruff_cache *.egg-info
