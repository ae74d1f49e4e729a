# Unit tests: one cmocka program a module, one rank, no MPI launcher. Add a name here and nothing else.
unit_tests = \
	tests/unit/test_base \
	tests/unit/test_batch \
	tests/unit/test_bench \
	tests/unit/test_bpe \
	tests/unit/test_checkpoint \
	tests/unit/test_config \
	tests/unit/test_convert \
	tests/unit/test_dataset \
	tests/unit/test_dtype \
	tests/unit/test_export \
	tests/unit/test_ini \
	tests/unit/test_inspect \
	tests/unit/test_job \
	tests/unit/test_layout \
	tests/unit/test_mesh \
	tests/unit/test_metrics \
	tests/unit/test_ops_attention \
	tests/unit/test_ops_gemm \
	tests/unit/test_ops_loss_embedding_adamw \
	tests/unit/test_ops_norm_rope_mlp \
	tests/unit/test_ops_rows \
	tests/unit/test_order \
	tests/unit/test_pipeline \
	tests/unit/test_random \
	tests/unit/test_safetensors \
	tests/unit/test_sample \
	tests/unit/test_schedule \
	tests/unit/test_source \
	tests/unit/test_stop \
	tests/unit/test_tokenizer \
	tests/unit/test_tokenizer_unicode

tests_unit_test_convert_SOURCES = tests/unit/test_convert.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h
tests_unit_test_export_SOURCES = tests/unit/test_export.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h
tests_unit_test_inspect_SOURCES = tests/unit/test_inspect.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h
tests_unit_test_safetensors_SOURCES = tests/unit/test_safetensors.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h
tests_unit_test_source_SOURCES = tests/unit/test_source.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h

# The doubles of the CUDA libraries, and what is tested over them.
include $(top_srcdir)/tests/cuda/double/sources.mk
double_tests = \
	tests/cuda/test_double
tests_cuda_test_double_CPPFLAGS = $(AM_CPPFLAGS) $(double_cppflags)
tests_cuda_test_double_LDADD = $(double_ldadd)

if HAVE_CMOCKA
check_PROGRAMS += $(unit_tests) $(double_tests)
TESTS += $(unit_tests) $(double_tests)
endif

# Programs that need several ranks: listed here to be built, run by the rows of tests/mesh/testlist.
mesh_programs = \
	tests/mesh/mesh_model \
	tests/mesh/test_ckpt \
	tests/mesh/test_indexing \
	tests/mesh/test_context \
	tests/mesh/test_hf_model \
	tests/mesh/test_launch \
	tests/mesh/test_staged \
	tests/mesh/test_traffic
tests_mesh_test_staged_SOURCES = tests/mesh/test_staged.c tests/mesh/comm_trials.c tests/mesh/comm_trials.h
tests_mesh_test_traffic_SOURCES = tests/mesh/test_traffic.c tests/mesh/trial.c tests/mesh/trial.h
tests_mesh_test_ckpt_SOURCES = tests/mesh/test_ckpt.c tests/unit/ckpt_model.c tests/unit/ckpt_model.h
check_PROGRAMS += $(mesh_programs)
# the files of the CUDA module that need no kernels, over the doubles
mesh_programs += tests/mesh/test_nccl
tests_mesh_test_nccl_SOURCES = tests/mesh/test_nccl.c tests/mesh/comm_trials.c tests/mesh/comm_trials.h \
	src/mesh/comm_nccl.c src/mesh/nccl_library.c src/mesh/nccl_library.h src/mesh/own_gpu.c src/mesh/own_gpu.h \
	src/tensor/device_cuda.c
tests_mesh_test_nccl_CPPFLAGS = $(AM_CPPFLAGS) $(double_cppflags)
tests_mesh_test_nccl_LDADD = $(double_ldadd)
tests_mesh_mesh_model_SOURCES = tests/mesh/mesh_model.c tests/mesh/check_alone.c tests/mesh/check_reference.c tests/mesh/checks.h \
	tests/mesh/mesh_run.c tests/mesh/mesh_run.h tests/mesh/reference.c tests/mesh/reference.h tests/mesh/trial.c tests/mesh/trial.h
dist_check_DATA += tests/mesh/README.md tests/mesh/mesh_model.ini tests/mesh/testlist.all tests/mesh/models/wide/config.json

# Every operation of a device against the CPU's; tests/gpu/run.sh runs it on a GPU, testlist on the CPU itself.
check_PROGRAMS += tests/gpu/ops_parity
tests_gpu_ops_parity_SOURCES = tests/gpu/ops_parity.c
EXTRA_DIST += tests/gpu/run.sh tests/gpu/models/llama-3.2-1b/config.json tests/gpu/models/llama-3.2-3b/config.json \
	tests/gpu/models/llama-3.1-8b/config.json

# Lets ranks that outnumber the cores yield while they wait; tests/lib.sh preloads it.
check_LTLIBRARIES += tests/mesh/yield_shim.la
tests_mesh_yield_shim_la_SOURCES = tests/mesh/yield_shim.c
tests_mesh_yield_shim_la_LDFLAGS = -module -avoid-version -shared -rpath /nowhere
tests_mesh_yield_shim_la_LIBADD =

# Lets the n-th call of a program to the system, or to finemesh's allocator, fail; tests/fault/lib.sh preloads it.
check_LTLIBRARIES += tests/fault/fault_shim.la
tests_fault_fault_shim_la_SOURCES = tests/fault/fault_shim.c
tests_fault_fault_shim_la_LDFLAGS = -module -avoid-version -shared -rpath /nowhere
tests_fault_fault_shim_la_LIBADD =
dist_check_DATA += tests/fault/README.md tests/fault/lib.sh

# Tells the most memory that a program had; tests/regression/memory.sh runs others under it.
check_PROGRAMS += tests/regression/peak
tests_regression_peak_SOURCES = tests/regression/peak.c
tests_regression_peak_LDADD =

# Shell tests speak TAP (see tests/lib.sh), so that each of their rows is a counted result.
shell_tests = \
	tests/cuda/compile.sh \
	tests/fault/damage.sh \
	tests/fault/disk.sh \
	tests/fault/each_call.sh \
	tests/fault/hang.sh \
	tests/fault/kill.sh \
	tests/fault/rank_fails.sh \
	tests/fuzz/replay.sh \
	tests/mesh/run.sh \
	tests/oracle/live.sh \
	tests/oracle/models.sh \
	tests/oracle/shards.sh \
	tests/oracle/tensorboard.sh \
	tests/oracle/tokenizer.sh \
	tests/regression/bad.sh \
	tests/regression/bench.sh \
	tests/regression/bundle.sh \
	tests/regression/cuda.sh \
	tests/regression/export.sh \
	tests/regression/generate.sh \
	tests/regression/library.sh \
	tests/regression/load.sh \
	tests/regression/memory.sh \
	tests/regression/tp_plan.sh \
	tests/regression/quickstart.sh \
	tests/regression/reshard.sh \
	tests/regression/resume.sh \
	tests/slurm/jobs.sh \
	tests/style/calls.sh \
	tests/style/headers.sh \
	tests/style/scripts.sh \
	tests/style/shape.sh
TESTS += $(shell_tests)
dist_check_SCRIPTS += $(shell_tests) tests/slurm/in_allocation.sh
noinst_HEADERS += tests/unit/attention.h tests/unit/numeric.h
dist_check_DATA += tests/regression/bad.table tests/regression/losses.table
dist_check_DATA += tests/lib.sh tests/slurm/cluster.sh tests/mesh/testlist tests/style/calls.table \
	tests/oracle/compare.py tests/oracle/oracle.py

TEST_EXTENSIONS = .sh
SH_LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
SH_LOG_COMPILER = $(SHELL)

LDADD = libfinemesh.la $(CMOCKA_LIBS) $(JANSSON_LIBS) $(HDF5_LIBS) $(GEMM_LIBS)
AM_TESTS_ENVIRONMENT = \
	srcdir='$(srcdir)'; top_builddir='$(top_builddir)'; MPIEXEC='$(MPIEXEC)'; FM_CC='$(CC)'; FM_SANITIZE='$(SANITIZE_CFLAGS)'; \
	FM_CPPFLAGS='-D_GNU_SOURCE -I. -I$(srcdir)/include -I$(srcdir)/src $(CPPFLAGS) $(HDF5_CFLAGS) $(JANSSON_CFLAGS) $(PCRE2_CFLAGS)'; \
	FM_NVCC='$(NVCC)'; FM_CXX17='$(have_cxx17)'; FM_CUDNN='$(fm_cudnn)'; \
	export srcdir top_builddir MPIEXEC FM_CC FM_CPPFLAGS FM_SANITIZE FM_NVCC FM_CXX17 FM_CUDNN;

# make check-all: the long lists too.
check-all:
	FM_TEST_LISTS='testlist testlist.all' $(MAKE) $(AM_MAKEFLAGS) check
.PHONY: check-all

# make check-faults: every call that can fail, 1,000 kills (hours). FM_FAULT_ROWS, FM_FAULT_STRIDE and the others of tests/fault/README.md
# choose less.
ROUNDS = 1000
SEED = 1
FIRST = 1
fault_tests = tests/fault/damage.sh tests/fault/disk.sh tests/fault/each_call.sh tests/fault/hang.sh tests/fault/kill.sh tests/fault/rank_fails.sh
check-faults:
	FM_FAULT_STRIDE=$${FM_FAULT_STRIDE:-1} FM_FAULT_PLACES=$${FM_FAULT_PLACES:-100} FM_FAULT_ROUNDS=$(ROUNDS) FM_FAULT_SEED=$(SEED) \
		FM_FAULT_FIRST=$(FIRST) $(MAKE) $(AM_MAKEFLAGS) check TESTS='$(fault_tests)'
.PHONY: check-faults

include $(top_srcdir)/tests/oracle/sources.mk
include $(top_srcdir)/tests/fuzz/sources.mk

# make check-hostile: the tests that build finemesh anew with sanitizers or clang's fuzzers, or run it under valgrind. Each skips
# where its tool is missing. make fuzz: the fuzzers alone, FUZZ_SECONDS (600) each; FUZZ_TARGETS chooses.
hostile_tests = tests/fuzz/fuzz.sh tests/sanitize/asan.sh tests/sanitize/valgrind.sh
dist_check_SCRIPTS += $(hostile_tests)
dist_check_DATA += tests/sanitize/valgrind.supp
# Two at a time: the fuzzers and valgrind want one core while the build with the sanitizers is made.
check-hostile: all
	$(MAKE) $(AM_MAKEFLAGS) -j2 check TESTS='$(hostile_tests)'
fuzz: all
	FUZZ_SECONDS="$${FUZZ_SECONDS:-600}" $(MAKE) $(AM_MAKEFLAGS) check TESTS=tests/fuzz/fuzz.sh
.PHONY: check-hostile fuzz
