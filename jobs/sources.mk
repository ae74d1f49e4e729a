# Scripts that people and continuous integration start from the tree.
EXTRA_DIST += .ci/run jobs/check.sh jobs/manpages.sh jobs/quickstart.sh jobs/setup.sh

# Batch scripts for Slurm, with what they have in common; installed too.
dist_pkgdata_SCRIPTS = jobs/check.sbatch jobs/finetune.sbatch jobs/finetune-gpu.sbatch jobs/finetune-nodes.sbatch jobs/requeue.sh \
	jobs/sweep.sbatch
EXTRA_DIST += jobs/bundle.sh

# make bundle: a relocatable directory and .tar.gz for machines without packages.
if HAVE_CMOCKA
bundle_tests = $(gpu_tests) tests/cuda/gpu_bandwidth
endif
bundle: finemesh$(EXEEXT) tests/mesh/mesh_model$(EXEEXT) tests/mesh/yield_shim.la tests/gpu/ops_parity$(EXEEXT) $(bundle_tests) $(pkglib_LTLIBRARIES)
	@$(AM_TESTS_ENVIRONMENT) FM_VERSION='$(PACKAGE_VERSION)' FM_BUNDLE_TESTS='$(bundle_tests)' $(SHELL) $(srcdir)/jobs/bundle.sh
.PHONY: bundle
clean-local:
	rm -rf $(PACKAGE)-$(PACKAGE_VERSION)-bundle $(PACKAGE)-$(PACKAGE_VERSION)-bundle.tar.gz
