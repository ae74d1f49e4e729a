# Fuzz targets: searched with clang's libFuzzer (configure --enable-fuzzers), else programs that replay files.
fuzz_targets = \
	tests/fuzz/fuzz_config \
	tests/fuzz/fuzz_data_index \
	tests/fuzz/fuzz_events \
	tests/fuzz/fuzz_hf_index \
	tests/fuzz/fuzz_job \
	tests/fuzz/fuzz_jsonl \
	tests/fuzz/fuzz_manifest \
	tests/fuzz/fuzz_metrics \
	tests/fuzz/fuzz_safetensors \
	tests/fuzz/fuzz_shard_attributes \
	tests/fuzz/fuzz_shard_file \
	tests/fuzz/fuzz_tokenizer

check_LTLIBRARIES += tests/fuzz/libfuzz.la
tests_fuzz_libfuzz_la_SOURCES = tests/fuzz/fuzz.c tests/fuzz/fuzz.h tests/fuzz/fuzz_shard_set.c tests/fuzz/fuzz_shard_set.h
tests_fuzz_libfuzz_la_LIBADD =
if !FUZZERS
tests_fuzz_libfuzz_la_SOURCES += tests/fuzz/replay.c
endif
fuzz_ldadd = tests/fuzz/libfuzz.la $(LDADD)
tests_fuzz_fuzz_config_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_config_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_data_index_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_data_index_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_events_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_events_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_hf_index_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_hf_index_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_job_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_job_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_jsonl_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_jsonl_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_manifest_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_manifest_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_metrics_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_metrics_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_safetensors_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_safetensors_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_shard_attributes_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_shard_attributes_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_shard_file_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_shard_file_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
tests_fuzz_fuzz_tokenizer_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_tokenizer_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)
check_PROGRAMS += $(fuzz_targets)
EXTRA_DIST += tests/fuzz/README.md tests/fuzz/corpus tests/fuzz/regressions
dist_check_DATA += tests/sanitize/lsan.supp
