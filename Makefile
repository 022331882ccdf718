# The verbs. Everything is installed into .venv (and .venv-device), nothing elsewhere.
PYTHON ?= python3
# The device environment has what JetPack 6 gets: no torch, and Python 3.10 where the machine has one.
DEVICE_PYTHON ?= $(shell .ci/device-python $(PYTHON))
BIN := .venv/bin
DEVICE_BIN := .venv-device/bin
DEVICE_PINS := onnxruntime==1.23.2 numpy==2.2.6
FUZZ_COUNT ?= 20000
FUZZ_SEEDS ?= 200
SOAK_WINDOWS ?= 2000000
# Two workers, each with whole modules: what a module makes once, like a compiled engine, is not made twice.
WORKERS ?= -n 2 --dist loadfile
# See sattn_edge/engine_onnxruntime.py; benchmarks and the fuzzer import onnxruntime on their own.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: demo test test-device lint bench agreement fuzz soak kills clean

demo: .venv/.installed
	$(BIN)/sattn demo

test: lint
	$(BIN)/python -m pytest $(WORKERS)

# The runtime on a device: no torch, the oldest onnxruntime and numpy in the field.
test-device: .venv-device/.installed
	$(DEVICE_BIN)/python -m pytest -m "not torch" $(WORKERS)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/instrumentation.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/incremental.py --streams
	$(BIN)/python benchmarks/clock.py
	$(BIN)/python benchmarks/streams.py
	$(BIN)/python benchmarks/false_alarms.py

# INT8 and FP16 judged on the foreign checkpoints and recordings beside the repository: about ten minutes.
agreement: .venv/.installed
	$(BIN)/python benchmarks/agreement.py

# Mutants of a model file, on both ends of the onnxruntime versions; faults in streams.
fuzz: .venv/.installed .venv-device/.installed
	$(BIN)/python tests/fuzz/run.py --count $(FUZZ_COUNT)
	$(DEVICE_BIN)/python tests/fuzz/run.py --count $(FUZZ_COUNT)
	$(BIN)/python tests/fuzz/streams.py --seeds $(FUZZ_SEEDS)

# 20,000 numbered MQTT messages, four kill -9 of sattn-run, four restarts of the broker: each window once.
kills: .venv/.installed
	$(BIN)/python benchmarks/mqtt_kills.py

# What a month of decisions leaves behind in memory, descriptors, threads and logits: some minutes.
soak: .venv/.installed
	$(BIN)/python benchmarks/soak.py --windows $(SOAK_WINDOWS)
	$(BIN)/python benchmarks/soak.py --windows $(SOAK_WINDOWS) --incremental stateful
	$(BIN)/python benchmarks/drift.py

clean:
	rm -rf .venv .venv-device .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist sattn-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,report,rtx,mqtt,serial,lsl,mcap,metrics,dev]'
	touch $@

.venv-device/.installed: pyproject.toml constraints.txt
	$(DEVICE_PYTHON) -m venv .venv-device
	grep -v -e '^numpy' -e '^onnxruntime' constraints.txt > .venv-device/constraints.txt
	$(DEVICE_BIN)/python -m pip install --quiet -c .venv-device/constraints.txt -e . $(DEVICE_PINS) pytest pytest-xdist hypothesis
	touch $@
