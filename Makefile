# make run   sets up, builds (release) and shows the main job on one node; ONCE=1 stops and checks everything
# make test  sets up and runs all tests
# make bench measures beside Debian's etcd and bare libsodium
# make differential [SEQUENCES=100000] [SEED=1] asks Debian's etcd and a release build the same random requests
# make bitrot changes every byte of a data directory in turn (hours); make test takes a sample of both
# make simulate runs clusters from seeds, deterministically: exits 0 only if no promise was broken (WORLD=raft STEPS=1000000 FROM=1 narrow it)
# make mutants shows for every deliberate bug, compiled into a build of its own, whether the simulator catches it
# make torture [HISTORIES=20] [MEMBERS="1 3"] [SERVER=cofferd|etcd] [SEED=1] hurts real daemons and checks what their clients saw: exits 0 only if nothing was violated
SWIFT_BUILD = swift build --explicit-target-dependency-import-check error
# Overlapping accesses are found by the compiler and, in the tests' debug builds, at run time; looking again in release costs some 4 % of a put.
RELEASE = -c release -Xswiftc -enforce-exclusivity=unchecked
SHELL = /bin/bash

.PHONY: run test torture simulate mutants differential bitrot bench build setup-build setup-test setup-bench clean
run: build
	@ONCE=$(ONCE) examples/one-node/run

build: setup-build
	$(SWIFT_BUILD) $(RELEASE) --product cofferd
	$(SWIFT_BUILD) $(RELEASE) --product coffer-agent
	$(SWIFT_BUILD) $(RELEASE) --product cofferctl

# Cores first, side by side. Then what works with threads, sockets, mounts and real programs: one test at a time, each
# folder in a process of its own, so that none of them waits for another one's event loops.
CORES = Basics|SecretMemory|Raft|WriteAheadLog|MVCC|Replica|Sealing|FileSealing|Resources|Access|Mounts|Audit|Certificates|NodeProtocol|EtcdProtocol|ObjectStore|APIClient|Commands|Histories|Simulation|Tidy
SHELLS = Storage ReplicaService Peers Barrier KeyVault Coffer RPC EtcdServer CofferClient APIServer StatusServer NodeAgent Conformance Differential Torture
TEST = timeout --kill-after=10 1800 swift test --skip-build

# All of them, also after a failure; what failed is said once more at the end.
test: setup-test
	$(SWIFT_BUILD) --build-tests
	@mkdir -p .build/tests; rm -f .build/tests/*; set -o pipefail; failed=; \
	run() { echo "== $$1"; $(TEST) "$${@:2}" 2>&1 | tee .build/tests/$$1.log || failed+=" $$1"; }; \
	run cores --filter '^($(CORES))Tests\.'; \
	for target in $(SHELLS); do run $$target --no-parallel --filter "^$${target}Tests\."; done; \
	for target in $$failed; do echo "== failed: $$target"; grep -a -A4 '✘\|: error:\|atal error' .build/tests/$$target.log | head -30; done; [ -z "$$failed" ]

SEQUENCES = 100000
SEED = 1
differential: setup-test build
	COFFER_ONLY=Differential $(SWIFT_BUILD) --build-tests
	COFFER_ONLY=Differential COFFER_DIFFERENTIAL_COFFERD=$(CURDIR)/.build/release/cofferd COFFER_DIFFERENTIAL_SEQUENCES=$(SEQUENCES) \
	    COFFER_DIFFERENTIAL_SEED=$(SEED) swift test --skip-build --filter '^DifferentialTests\.'

bitrot: setup-test
	COFFER_ONLY=Barrier $(SWIFT_BUILD) --build-tests
	COFFER_ONLY=Barrier COFFER_BITROT=all swift test --skip-build --filter '^BarrierTests\.BitRotTests'

HISTORIES = 20
MEMBERS = 1 3
SERVER = cofferd
torture: setup-test build
	$(SWIFT_BUILD) $(RELEASE) --product coffer-torture
	failed=0; for members in $(MEMBERS); do \
	    .build/release/coffer-torture --server $(SERVER) --members $$members --histories $(HISTORIES) --seed $(SEED) || failed=1; done; exit $$failed

# Narrowed to the cores: nothing else is built for them.
simulate: setup-build
	COFFER_ONLY=simulate,Simulation $(SWIFT_BUILD) $(RELEASE) --product simulate
	.build/release/simulate $(if $(WORLD),--world $(WORLD)) $(if $(STEPS),--steps $(STEPS)) $(if $(FROM),--from $(FROM))

mutants: setup-build
	COFFER_ONLY=simulate,Simulation COFFER_MUTANTS=1 $(SWIFT_BUILD) --scratch-path .build/mutants $(RELEASE) --product simulate
	.build/mutants/release/simulate --mutants

bench: setup-bench build
	COFFER_BENCHMARKS=1 $(SWIFT_BUILD) $(RELEASE) --product coffer-bench
	Benchmarks/run

setup-build setup-test setup-bench: setup-%:
	@.ci/setup $*

clean:
	rm -rf .build .bench .run
