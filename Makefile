# Building and testing need Go, git and make; testing needs root. Only
# `make generate` needs clang, because what it makes is committed, and only
# `make kernels` needs qemu and a Debian mirror.

# Binaries know the commit they are built from; this names images and packages.
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# A tag without its v; before the first tag, a version that is older than any.
PACKAGE_VERSION := $(if $(filter v%,$(VERSION)),$(subst -,.,$(patsubst v%,%,$(VERSION))),0~$(shell git rev-list --count HEAD 2>/dev/null).$(subst -,.,$(VERSION)))
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
FUZZTIME    ?= 30s
TESTFLAGS   ?=
ONLY        ?=
BENCHFLAGS  ?=
# For install, uninstall and image.
PREFIX      ?= /usr/local
DESTDIR     ?=
CONTAINER   ?= docker
IMAGE       ?= perimeterd:$(VERSION)

GOBUILD := go build -trimpath -ldflags '-s -w'
export CGO_ENABLED := 0

.PHONY: build help run demo test kernels check fuzz bench generate image install uninstall packages clean

build: ## Build bin/perimeterd and bin/perimeterctl, static (the default)
	$(GOBUILD) -o bin/ ./cmd/...

help: ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

run: build ## Start the agent in Audit, which harms nothing, and show decisions; Ctrl-C removes it
	@scripts/run

demo: ## Build a small network, walk a policy through it, and tell what happens and why
	go run ./tests/demo

test: ## Run all tests, as root; a missing right is a failure
	PERIMETERD_TESTS=privileged go test -count=1 $(TESTFLAGS) ./...

kernels: ## Run the data path's tests in Debian's kernels, emulated; record what their verifiers count
	scripts/kernels --record

check: build ## Check format, modules, both architectures, headers and generated code; lint
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt these: $$unformatted" >&2; exit 1; }
	go mod tidy -diff
	go mod verify
	go vet ./...
	GOARCH=arm64 go build ./...
	go run $(STATICCHECK) ./...
	scripts/check-headers
	scripts/check-generated
	bin/perimeterd --check --settings deploy/perimeterd.yaml --policy deploy/policy-reference.yaml
	bin/perimeterd --check --settings deploy/kubernetes/settings.yaml --policy deploy/kubernetes/policy

bench: ## Measure against bare floors and nftables, as root: all, or what ONLY matches; BENCHFLAGS=--help
	go run ./tests/bench --only '$(value ONLY)' $(BENCHFLAGS)

fuzz: ## Fuzz each target for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

generate: ## Compile bpf/ with the pinned clang
	scripts/generate

image: build ## Build a container image with CONTAINER (docker), named IMAGE
	$(CONTAINER) build -t $(IMAGE) -f deploy/Containerfile bin

# What is there is installed: root need not have Go.
bin/perimeterd:
	$(GOBUILD) -o bin/ ./cmd/...

install: bin/perimeterd ## Install below PREFIX (/usr/local), with a systemd unit; starts nothing
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/perimeterd bin/perimeterctl
	install -d -m 0755 $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/bin/|$(PREFIX)/bin/|' deploy/perimeterd.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/perimeterd.service

uninstall: ## End enforcement and remove what install installed; settings, policy, state and logs stay
	@test -n "$(DESTDIR)" || PATH="$(PREFIX)/bin:$$PATH" deploy/package/before-remove.sh
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/perimeterd bin/perimeterctl lib/systemd/system/perimeterd.service)
	@test -n "$(DESTDIR)" || deploy/package/after-remove.sh

packages: build ## Make a .deb and an .rpm of bin/ in dist/
	mkdir -p dist
	@for format in deb rpm; do VERSION=$(PACKAGE_VERSION) ARCH=$$(go env GOARCH) go run $(NFPM) package -f deploy/package/nfpm.yaml -p $$format -t dist/ || exit; done

clean: ## Remove what was built
	rm -rf bin dist
