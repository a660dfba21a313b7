# `make lab` builds and proves the whole fleet on this machine; `make test` checks everything.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ENV ?= lab
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PLAYBOOK := ansible-playbook
STAGES := test-lint test-unit lab test-config test-lab
PYTEST := pytest -q --durations=10 --durations-min=1

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.venv/.locked: requirements.txt pyproject.toml
	@bin/bootstrap

venv: .venv/.locked ## set up the control environment in .venv

# Under one lock from end to end: two of them at once would restart each other's services.
lab: .venv/.locked ## boot the lab, converge it, prove a DAG runs on every pool
	@bin/lab-lock lab $(PLAYBOOK) -i inventories/lab ansible/playbooks/create-lab.yml site.yml ansible/playbooks/prove-fleet.yml

lab-up: .venv/.locked ## boot the lab's machines without converging them
	@bin/lab-lock lab-up $(PLAYBOOK) -i inventories/lab ansible/playbooks/create-lab.yml

lab-down: .venv/.locked ## stop and remove the lab's machines; caches stay
	@bin/lab-lock lab-down $(PLAYBOOK) -i inventories/lab ansible/playbooks/destroy-lab.yml

lab-status: .venv/.locked ## list the lab's machines
	$(PLAYBOOK) -i inventories/lab ansible/playbooks/list-lab.yml

lab-ssh: .venv/.locked ## open a shell on a machine: make lab-ssh HOST=web1
	@bin/lab-ssh "$(HOST)"

test: .venv/.locked ## everything: lint, unit, config and lab tests; every stage runs, a summary says which failed
	@bin/stages $(STAGES)

test-lint: .venv/.locked ## ruff, mypy, yamllint, ansible-lint, shellcheck
	ruff check .
	ruff format --check .
	mypy
	yamllint --strict .
	shellcheck $$(git grep -lE '^#!.*\b(ba)?sh' -- . ':!*.j2')
	ansible-lint

test-unit: .venv/.locked ## pure Python, no machine
	$(PYTEST) tests/unit tests/simulation

test-simulation: .venv/.locked ## the scheduler lease through 100,000 schedules of faults
	python -m tests.simulation.run

test-config: lab-up ## every rendered file through its own checker, which the lab's machines have
	$(PYTEST) -n auto tests/config

test-lab: .venv/.locked ## the lab that `make lab` left, proved by testinfra
	$(PYTEST) -m "not story" tests/lab

test-chaos: .venv/.locked ## the failure stories of schedulers and deploys on the running lab, about 35 minutes
	timeout --signal INT 1800 pytest -q tests/chaos
	timeout --signal INT 1800 pytest -q -m story tests/lab

test-bench: lab ## the figures that docs/figures.md quotes, but for the lab's own build time, about two and a half hours
	python -m tests.bench.memory
	python -m tests.bench.cli
	python -m tests.bench.chain_hop
	python -m tests.bench.slots
	python -m tests.bench.converge
	python -m tests.bench.deploy
	python -m tests.bench.failover
	python -m tests.bench.vacuum.bench

bench-lab: .venv/.locked ## time `make lab` from nothing and with caches; removes the lab and its caches
	python -m tests.bench.lab

lock: .venv/.locked ## resolve the locks again: the control node's, Airflow's and the archive's
	uv pip compile --quiet --generate-hashes --python-version 3.11 --custom-compile-command 'make lock' \
	  --output-file requirements.txt pyproject.toml requirements.in
	bin/lock-environment airflow
	bin/lock-environment archive

reference: .venv/.locked ## write docs/reference/cli.md from the commands themselves
	python -m ops_cli.reference > docs/reference/cli.md.new
	mv docs/reference/cli.md.new docs/reference/cli.md

molecule: .venv/.locked ## one role alone on its own machine: make molecule ROLE=postgres
	@test -d "roles/$(ROLE)/molecule/default" || { echo "molecule: name a role with a scenario: make molecule ROLE=$$(basename $$(dirname $$(dirname $$(ls -d roles/*/molecule/default | head -1))))" >&2; exit 2; }
	cd roles/$(ROLE) && molecule test

vault: .venv/.locked ## fill inventories/$(ENV)'s vault with fresh secrets: make vault ENV=production
	$(PLAYBOOK) -i inventories/$(ENV) ansible/playbooks/create-vault.yml
