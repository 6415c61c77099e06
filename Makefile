# make run   sets up, builds (release) and shows the main job on one node; ONCE=1 stops and checks everything
# make test  sets up and runs all tests
# make bench measures beside Debian's etcd and bare libsodium
SWIFT_BUILD = swift build --explicit-target-dependency-import-check error
SHELL = /bin/bash

.PHONY: run test bench build setup-build setup-test setup-bench clean
run: build
	@ONCE=$(ONCE) examples/one-node/run

build: setup-build
	$(SWIFT_BUILD) -c release --product cofferd
	$(SWIFT_BUILD) -c release --product coffer-agent
	$(SWIFT_BUILD) -c release --product cofferctl

test: setup-test
	$(SWIFT_BUILD) --build-tests
	swift test --skip-build

bench: setup-bench build
	COFFER_BENCHMARKS=1 $(SWIFT_BUILD) -c release --product coffer-bench
	Benchmarks/run

setup-build setup-test setup-bench: setup-%:
	@.ci/setup $*

clean:
	rm -rf .build .bench .run
