# Each goal is complete in itself: it sets up .venv first where that is missing or out of date (setup.sh; quick the second time).

RUN = .venv/bin/r1kit run
MODEL = models/SmolLM2-135M-Instruct

.PHONY: data-effects findings ablation mini ui data-choice real-text real real-seeds countdown lessons test test-quick test-pages test-vllm pictures controls objectives adversarial bench race llama gpu chaos api reference docs docs-check docs-pictures record wheel-check lint clean

# The whole R1 recipe in miniature; continues where it was interrupted. Overrides: make mini CHANGES="seed=1 --out runs/second"
mini: .venv/ready
	$(RUN) recipes/mini.yaml $(CHANGES)

# The board, the rollouts and the models of the runs in runs/, the newest first, in a browser (docs/ui.md). One run: make ui SHOW=runs/mini
ui: .venv/ui-ready
	.venv/bin/r1kit ui $(SHOW)

.venv/ui-ready: .venv/ready pyproject.toml constraints.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet -e ".[ui]" -c constraints.txt -c .venv/torch.txt
	touch .venv/ui-ready

# A released model of 135M parameters and its R1-Zero (docs/real.md): gets the model (92 MB), trains it on word problems by rules alone,
# measures it before and after. Continues where it was interrupted.
real: $(MODEL)/config.json
	$(RUN) recipes/real.yaml $(CHANGES)
	@echo "Talk with it: .venv/bin/r1kit chat runs/real"

# Three seeds of it, with the control whose rewards are coins, and docs/real.md from them.
real-seeds: $(MODEL)/config.json
	for seed in 0 1 2; do $(RUN) recipes/real-control.yaml seed=$$seed --out runs/real-$$seed || exit 1; done
	.venv/bin/python benchmarks/real.py

# Three numbers and a target, from random weights: three seeds, and docs/real.md.
countdown: .venv/ready
	for seed in 0 1 2; do $(RUN) recipes/countdown.yaml seed=$$seed --out runs/countdown-$$seed || exit 1; done
	.venv/bin/python benchmarks/real.py

$(MODEL)/config.json: | .venv/real-ready
	.venv/bin/python models/get.py

.venv/real-ready: .venv/ready pyproject.toml constraints.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet -e ".[real]" -c constraints.txt -c .venv/torch.txt
	touch .venv/real-ready

# The lessons of docs/tutorial/, each in full, with its seconds. Those that train continue one run, runs/lessons.
lessons: .venv/ready
	@for lesson in docs/tutorial/[0-9]*.py; do \
		start=$$(date +%s); .venv/bin/python $$lesson || exit 1; \
		echo "$$lesson: $$(( $$(date +%s) - start )) s"; \
	done

# Three at once on two cores: some tests mostly wait, for a process that hangs or a cluster that starts.
test: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 3

# The tests that take no more than about a second each; every package is among what they test.
test-quick: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 -m "not slow"

# Each page of r1kit ui driven in headless Chromium (Debian: apt install chromium) while a nano recipe trains: docs/ui.md.
test-pages: .venv/browser-ready
	.venv/bin/python -m pytest -rs tests/browser

# The pictures of docs/ui.md, made again from a finished run: make pictures SHOW=runs/mini
pictures: .venv/browser-ready
	.venv/bin/python benchmarks/pictures.py $(SHOW)

.venv/browser-ready: .venv/ready pyproject.toml constraints.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet -e ".[ui,browser]" -c constraints.txt -c .venv/torch.txt
	touch .venv/browser-ready

# vLLM as the engine, in an environment of its own (tests/with_vllm/setup.sh; R1KIT_VLLM_PYTHON names one that is there): docs/scale.md
test-vllm: .venv/ready
	vllm=$$(tests/with_vllm/setup.sh) && R1KIT_VLLM_PYTHON=$$vllm OMP_NUM_THREADS=1 .venv/bin/python -m pytest -s tests/with_vllm \
		tests/test_exports.py -k vllm

# The matched runs behind the claims in docs/: they take as long as they take, and continue where they were interrupted.
controls: .venv/ready
	$(RUN) recipes/controls.yaml $(CHANGES)

# Every objective on the same problems, three seeds: docs/objectives-compared.md. Some hours on one core each.
objectives: .venv/ready
	for seed in 0 1 2; do $(RUN) recipes/objectives.yaml seed=$$seed --out runs/objectives-$$seed || exit 1; done
	.venv/bin/python benchmarks/objectives.py runs/objectives-0 runs/objectives-1 runs/objectives-2

# What the choice and the order of data are worth, three seeds: docs/data.md. About ten minutes of processor time; continues where it was interrupted.
data-choice: .venv/ready
	for seed in 0 1 2; do $(RUN) recipes/data-choice.yaml seed=$$seed --trust --out runs/data-choice-$$seed $(CHANGES) || exit 1; done
	.venv/bin/python benchmarks/data_choice.py runs/data-choice-0 runs/data-choice-1 runs/data-choice-2

# 200 MB of real text from Debian's documentation packages (apt-get update first), curated, packed and trained on in three sizes: docs/data.md
real-text: .venv/ready
	.venv/bin/python data/real_text.py data/real-text
	$(RUN) recipes/real-text.yaml --trust $(CHANGES)
	.venv/bin/python benchmarks/real_text_page.py runs/real-text data/real-text

# The paper's findings as experiments, three seeds each: docs/findings.md. Hours; continues where it was interrupted. Some of them:
# make findings CHANGES="--only 1,7"
findings: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/findings.py $(CHANGES)

# Which stage of R1 does what: the recipe with one stage left out, seven arms, three seeds: docs/ablation.md.
ablation: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/ablation.py $(CHANGES)

# What objectives of pretraining and mixtures of tasks do, in a world of seconds, three seeds: docs/data.md. Continues where it was interrupted.
data-effects: .venv/ready
	.venv/bin/python benchmarks/data_effects.py corpus
	for seed in 0 1 2; do \
		$(RUN) recipes/data-effects.yaml seed=$$seed --out runs/data-effects/$$seed || exit 1; \
		$(RUN) recipes/data-effects-tasks.yaml seed=$$seed --out runs/data-effects/tasks-$$seed || exit 1; \
		.venv/bin/python benchmarks/data_effects.py measure runs/data-effects/$$seed || exit 1; \
	done
	.venv/bin/python benchmarks/data_effects.py page runs/data-effects

# Every program of the adversarial corpus, in both tiers of the sandbox, and more kills (make test runs a part of it).
adversarial: .venv/ready
	R1KIT_ADVERSARIAL=full OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 tests/adversarial tests/test_sandbox.py \
		tests/test_math_workers.py

# r1kit and its peers at the same work, in turns: fills docs/performance.md. Some of it: make bench CHANGES="grpo/7m --quick"; the time to
# quality and llama.cpp: make bench race, make bench llama (both say what they miss)
bench: .venv/ready
	.venv/bin/python benchmarks/bench.py $(filter race llama,$(MAKECMDGOALS)) $(CHANGES)

race llama: bench

# What a GPU does with r1kit: tests of what it computes, sampling and learning at random weights of 0.5B and 1.5B parameters, and ten steps of R1-Zero on the
# model of make real where it is there. At most 8 minutes, nothing is downloaded; fills docs/performance.md.
gpu: .venv/ready
	.venv/bin/python -m pytest -q tests/test_on_gpu.py
	.venv/bin/python benchmarks/gpu.py $(CHANGES)

# Kills every kind of stage at random times, damages every file of a run, and fails a save and a hand-over at every system call; the
# last line is the verdict. Less of it: make chaos CHANGES=--quick; another series: CHANGES="--seed 1" (docs/reliability.md)
chaos: .venv/ready
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/chaos.py $(CHANGES)

# docs/api.md from the docstrings of the public names.
api: .venv/ready
	.venv/bin/python docs/make_api.py

# docs/recipe-keys.md and docs/commands.md, from the configurations and the command line.
reference: .venv/ready
	.venv/bin/python docs/make_recipe_keys.py
	.venv/bin/python docs/make_commands.py

# The documentation as a site, in build/site: offline, with search. Look at it: python -m http.server -d build/site
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

# Every command of README and docs is parsed or run, links and anchors are looked up, the site builds, loads nothing from outside, and is searched in Chromium.
docs-check: docs .venv/browser-ready
	.venv/bin/python docs/check_docs.py --run
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -rs tests/test_docs.py tests/test_docs_site.py tests/test_reference.py tests/test_how_to.py

# Pictures of the site, light and dark, wide and narrow, in build/site-pictures; its pages may ask nothing of the network.
docs-pictures: docs .venv/browser-ready
	.venv/bin/python benchmarks/site_pictures.py

.venv/docs-ready: .venv/ready pyproject.toml constraints.txt
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet -e ".[docs]" -c constraints.txt -c .venv/torch.txt
	touch .venv/docs-ready

# R1 in 10 CPU-minutes: a row of docs/record.md, by the rules that stand there. Yours: make record CHANGES="recipes/mine.yaml seed=1"
record: .venv/ready
	.venv/bin/python benchmarks/record.py $(CHANGES)

# A wheel and an sdist of the last commit in an environment of its own: run, doctor and ui from an empty folder.
wheel-check:
	.ci/wheel-check

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt setup.sh
	./setup.sh
