# Unit tests: one cmocka program a module, one rank, no MPI launcher. Add a name here and nothing else.
unit_tests = \
	tests/unit/test_base

if HAVE_CMOCKA
check_PROGRAMS += $(unit_tests)
TESTS += $(unit_tests)
endif

LDADD = libfinemesh.la $(CMOCKA_LIBS) $(JANSSON_LIBS) $(HDF5_LIBS) $(GEMM_LIBS)
AM_TESTS_ENVIRONMENT = srcdir='$(srcdir)' top_builddir='$(top_builddir)'; export srcdir top_builddir;
