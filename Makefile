# make demo: see it work.  make test: everything.  Both install what they need; see README.md.
PYTHON ?= python3
VENV := .venv
BUILD_PACKAGES := gcc libvirt-dev pkg-config python3-dev python3-venv
TEST_PACKAGES := $(BUILD_PACKAGES) corosync dbus dmidecode dnsmasq-base fence-virt fence-virtd fish iproute2 ipset iptables \
	libvirt-clients libvirt-daemon-system mandoc nftables pacemaker pacemaker-cli-utils pcs procps qemu-system-x86 systemd \
	systemd-container zsh
# Installed, it would be started and close this machine: only where no systemd runs to do that.
TEST_PACKAGES += $(if $(wildcard /run/systemd/system),,firewalld)

.PHONY: demo test bench clean

demo: $(VENV)/.host
	$(VENV)/bin/vmfence demo

test: $(VENV)/.test
	contrib/install-packages $(TEST_PACKAGES)
	contrib/fetch-guest-kernel .cache/guest
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(VENV)/.test
	contrib/install-packages $(TEST_PACKAGES)
	$(VENV)/bin/python -m contrib.bench $(BENCH_ARGS)

$(VENV)/bin/python:
	contrib/install-packages $(BUILD_PACKAGES)
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.host: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[host]'
	touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[host,test]'
	touch $@

clean:
	rm -rf $(VENV) .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
