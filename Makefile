# make demo: set up and run the main job on the built-in images.   make test: set up and run the tests.
# make test-fast: those that take little time.   make gpu-check DATA=DIR: on a GPU, the tests
#   that need one, and a table of what it brings (DATA: CIFAR-10, may be left out).
# make lint: format, lint, types.
# make results DATA=DIR: all presets with three seeds, and a table of what they reach (hours; QUICK=1: minutes, one epoch each).
# make torture DATA=DIR: the fuzzers with many cases; faults at random moments, many times, of one process and of two;
#   as root also two machines: prints tables (hours).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.ready

.PHONY: demo test test-fast gpu-check results torture lint schema clean

demo: $(READY)
	$(RUN) main.py train --config=demo
	$(RUN) main.py val --load-path=last
	$(RUN) main.py test --load-path=last
	@echo
	@echo "The run folder: $$(ls -td checkpoints/*_Demo_* | head -n 1)"
	@echo "Next, your own images:  $(RUN) main.py train --train-data-root=DIR   (cat.0.jpg, dog.0.jpg, ...)"
	@echo "Every option:           $(RUN) main.py help"

test: $(READY)
	$(RUN) -m pytest -q -n auto --dist=worksteal tests

test-fast: $(READY)
	$(RUN) -m pytest -q -n auto --dist=worksteal -m "not slow" tests

results: $(READY)
	$(RUN) tests/results.py --data=$(or $(DATA),data) $(if $(QUICK),--quick)

gpu-check: $(READY)
	$(RUN) tests/gpu_check.py --data=$(DATA)

torture: $(READY)
	FUZZ_CASES=$(or $(CASES),10000) FUZZ_SEED=$(or $(SEED),1) $(RUN) -m pytest -q -n auto --dist=worksteal tests/test_fuzz_*.py
	$(RUN) tests/torture.py --data=$(or $(DATA),data/demo/train)
	$(RUN) tests/torture_processes.py --data=$(or $(DATA),data/demo/train)
	$(RUN) tests/torture_sweeps.py
	$(RUN) tests/families.py --everything
	[ "$$(id -u)" != 0 ] || ! command -v ip > /dev/null || $(RUN) tests/torture_machines.py --times=3

lint: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

schema: $(READY)
	$(RUN) config.py > configs/schema.json

$(READY): requirements.txt constraints.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; give one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(RUN) -m pip install -r requirements.txt -r tests/requirements.txt
	touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
