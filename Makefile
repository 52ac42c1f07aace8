# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up .venv by themselves.
# CPU-only torch (0.2 instead of 6 GB): make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
PY := .venv/bin/python
PORT ?= 5000
export MLFLOW_DISABLE_TELEMETRY ?= true
# Tiny models gain nothing from a second thread, and spinning threads are many times slower beside other work.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint ui clean

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	@echo "Installing torch and the other packages; this takes some minutes the first time."
	$(if $(TORCH_INDEX),$(PY) -m pip install torch torchvision --index-url $(TORCH_INDEX))
	$(PY) -m pip install --editable '.[dev]'
	touch $@

demo: .venv/ready
	$(ONE_THREAD) $(PY) -m distill.demo

test: lint
	$(ONE_THREAD) $(PY) -m pytest -n 2

test-slow: .venv/ready
	$(ONE_THREAD) $(PY) -m pytest -m slow --timeout 3600

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

ui: .venv/ready
	$(PY) -m distill.tracking ui --port $(PORT)

clean:
	rm -rf .venv outputs .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
