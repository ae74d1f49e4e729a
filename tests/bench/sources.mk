# `make bench`: a benchmark, not a test. FM_ORACLE_PYTHON=python adds PyTorch's figures.
bench_programs = tests/bench/checkpoint_bench tests/bench/ops_bench
EXTRA_PROGRAMS += $(bench_programs)
CLEANFILES += $(bench_programs)
tests_bench_ops_bench_LDFLAGS = $(OPENMP_CFLAGS)
EXTRA_DIST += tests/bench/bench.sh tests/bench/checkpoint.sh tests/bench/peer.py tests/bench/smollm2-135m/config.json

bench: finemesh$(EXEEXT) $(bench_programs)
	@$(AM_TESTS_ENVIRONMENT) $(SHELL) $(srcdir)/tests/bench/bench.sh
	@$(AM_TESTS_ENVIRONMENT) $(SHELL) $(srcdir)/tests/bench/checkpoint.sh

bench-checkpoint: tests/bench/checkpoint_bench
	@$(AM_TESTS_ENVIRONMENT) $(SHELL) $(srcdir)/tests/bench/checkpoint.sh
.PHONY: bench bench-checkpoint
