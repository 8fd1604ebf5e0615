# Every target sets up .venv by itself, once. Needs Python 3.11 or later and make.
PYTHON ?= python3
PIP_UV = uv==0.13.8
BIN = .venv/bin
READY = .venv/ready
P ?= -p sigma 0.5
comma := ,
space := $() $()

.PHONY: certify test book assets explore models records ablations lint clean setup help
.DEFAULT_GOAL := help

help:
	@echo "make certify   certify 200 test digits at sigma 0.5 into runs/ (P=\"-p sigma 0.25 ...\" for other parameters)"
	@echo "make test      run the tests"
	@echo "make book      build the book into _build/html, to be read offline (FRESH=1 runs every page anew; needs npm)"
	@echo "make explore   open the explorer in the browser: one image, its noise, its votes, its certificate"
	@echo "make models    train the embedded models from scratch into models/"
	@echo "make records   make the committed records anew where they are missing (about an hour and a half)"
	@echo "make ablations fine-tune, certify and measure every variant, where its records are missing (about six hours)"
	@echo "make lint      check style; make clean removes what was built"

setup: $(READY)

# requirements.lock fixes every version; uv installs it in parallel, and compiles it, so that every start is quick.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cpur needs Python 3.11 or later; found %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "setting up .venv (once; torch is a large download)"
	@date +%s > .setup-started
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_UV)
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@echo "set-up: $$(( $$(date +%s) - $$(cat .setup-started) )) s"; rm .setup-started
	@touch $@

certify: $(READY)
	@start=$$(date +%s); \
	$(BIN)/papermill notebooks/certify.ipynb runs/certify.ipynb $(P) && \
	$(BIN)/python -m cpur show runs/certify.ipynb && \
	echo "certify: $$(( $$(date +%s) - start )) s"

# Two processes of one thread each: threads of several processes on the same cores wait for one another.
# jaxtyping checks the shapes of the tensor functions at every call the tests make. cpur.config checks its own values.
SHAPES = $(subst $(space),$(comma),$(strip \
  cpur.aces cpur.arithmetic cpur.attack cpur.augment cpur.backbones cpur.baselines \
  cpur.calibration cpur.cascade cpur.checkpoints cpur.classifiers cpur.compare cpur.corruptions cpur.data cpur.explore \
  cpur.finetune cpur.images cpur.line cpur.losses cpur.measures cpur.metrics cpur.multiscale cpur.networks.cifar_resnets \
  cpur.networks.dhariwal_unet cpur.networks.edm_blocks cpur.networks.edm_state cpur.networks.edm_unet \
  cpur.networks.flax_names cpur.networks.ncsnpp cpur.networks.openai_blocks cpur.networks.openai_unet \
  cpur.networks.song_unet cpur.noise cpur.paired cpur.preprocessing cpur.purifiers cpur.released cpur.sampling \
  cpur.schedules cpur.smooth cpur.transport cpur.views studies.ablation_tables studies.pretrain))
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=10 --jaxtyping-packages=$(SHAPES),beartype.beartype

# Formulas and widgets of the book, fetched once by npm.
assets: $(READY)
	@$(BIN)/python -m studies.assets

book: $(READY) assets
	FRESH=$(FRESH) $(BIN)/jupyter-book build book/

explore: $(READY)
	$(BIN)/voila notebooks/explore.ipynb

models: $(READY)
	$(BIN)/python -m studies.models

ablations: $(READY)
	$(BIN)/python -m studies.ablation
	$(BIN)/python -m studies.calibration
	$(BIN)/python -m studies.steered
	$(BIN)/python -m studies.shift
	$(BIN)/python -m studies.baselines
	$(BIN)/python -m studies.attacks
	$(BIN)/python -m studies.sampling

records: $(READY)
	$(BIN)/python -m studies.records

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf _build book/_build book/pages book/_assets* .pytest_cache .ruff_cache
