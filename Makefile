# fastpath: `make demo` and `make test` do everything that they need, from a bare Debian or Ubuntu on.
PYTHON ?= python3
VENV := .venv/bin
# cython-lint calls pycodestyle by its name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CPP = $(shell find src tests benches -name '*.[ch]pp' -o -name '*.h')
SOURCES := $(shell find src setup.py pyproject.toml -type f 2>/dev/null)
# Asked when it is used: on a bare machine there is no compiler yet.
ASAN = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libstdc++.so)
CORE_TESTS := tests/unit tests/model tests/vectors
# Files side by side, in order: the long ones come first. A process that had to be ended ends the run: a new one would
# begin the same file again, for ever.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Targets share one environment, so `make -j` takes them one after another.
.NOTPARALLEL:
.PHONY: help demo test bench lint sanitize build format clean
help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

# A stamp for each set of extras: the demo needs less than the tests do.
.venv/built-%: $(SOURCES) .ci/bootstrap
	@.ci/bootstrap $(PYTHON) $*
	@touch $@

demo: .venv/built-all ## From a container's frame to a chosen backend, on real parts
	@$(VENV)/fastpath demo

test: .venv/built-test ## The whole test suite
	$(VENV)/python -m pytest $(SIDE_BY_SIDE)

bench: .venv/built-bench ## Benchmarks beside the peers: one table, JSON and plots in benches/results
	@$(VENV)/fastpath bench

lint: .venv/built-lint ## ruff, mypy, cython-lint, clang-format
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/cython-lint src/fastpath
	$(VENV)/clang-format --dry-run --Werror $(CPP)
	$(VENV)/mypy

# Fork tests know that GCC's AddressSanitizer has locks of its own that no fork waits for: tests/unit/forks.py.
sanitize: .venv/built-test ## Address and undefined-behaviour sanitizers over the compiled modules
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r python build/sanitize/python && rm -f build/sanitize/python/fastpath/*.so
	FASTPATH_SANITIZE=address,undefined $(VENV)/python setup.py -q build_ext \
	    --build-temp build/sanitize/temp --build-lib build/sanitize/python
	nm -D build/sanitize/python/fastpath/_build*.so | grep -q __asan
	LD_PRELOAD="$(ASAN)" PYTHONMALLOC=malloc PYTHONPATH=build/sanitize/python \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(VENV)/python -m pytest -p no:cacheprovider $(SIDE_BY_SIDE) $(CORE_TESTS)

build: .venv/built-test ## Rebuild the compiled modules in place

format: .venv/built-lint ## Apply the formatters
	$(VENV)/ruff check --fix . ; $(VENV)/ruff format .
	$(VENV)/clang-format -i $(CPP)

clean: ## Remove what was built
	rm -rf .venv build dist python/*.egg-info python/fastpath/*.so
