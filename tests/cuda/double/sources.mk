# Doubles of the CUDA libraries over the host's memory, for machines without a GPU: found first by LD_LIBRARY_PATH=tests/cuda/double/.libs.
double_headers = \
	tests/cuda/double/cublasLt.h \
	tests/cuda/double/cuda_double.h \
	tests/cuda/double/cuda_runtime_api.h \
	tests/cuda/double/library_types.h \
	tests/cuda/double/memory.h \
	tests/cuda/double/nccl.h \
	tests/cuda/double/numbers.h \
	tests/cuda/double/queue.h \
	tests/cuda/double/settings.h
noinst_HEADERS += $(double_headers)
double_cppflags = -DFM_CUDA_ON_HOST -I$(srcdir)/tests/cuda -I$(srcdir)/tests/cuda/double

# One library for cudart and cuBLASLt: the module and libnccl.so.2 link it, so that they share its streams.
check_LTLIBRARIES += tests/cuda/double/libcudart_double.la
tests_cuda_double_libcudart_double_la_SOURCES = tests/cuda/double/cublaslt.c tests/cuda/double/cudart.c tests/cuda/double/memory.c \
	tests/cuda/double/mpi_wait.c tests/cuda/double/queue.c
tests_cuda_double_libcudart_double_la_CPPFLAGS = $(AM_CPPFLAGS) $(double_cppflags)
tests_cuda_double_libcudart_double_la_LDFLAGS = -avoid-version -shared -no-undefined -rpath /nowhere
tests_cuda_double_libcudart_double_la_LIBADD = -lpthread -lm

check_LTLIBRARIES += tests/cuda/double/libcuda.la
tests_cuda_double_libcuda_la_SOURCES = tests/cuda/double/libcuda.c
tests_cuda_double_libcuda_la_LDFLAGS = -version-info 1:0:0 -shared -no-undefined -rpath /nowhere
tests_cuda_double_libcuda_la_LIBADD =

# libnccl.so.2, which the backend opens by that name
check_LTLIBRARIES += tests/cuda/double/libnccl.la
tests_cuda_double_libnccl_la_SOURCES = tests/cuda/double/nccl.c
tests_cuda_double_libnccl_la_CPPFLAGS = $(AM_CPPFLAGS) $(double_cppflags)
tests_cuda_double_libnccl_la_LDFLAGS = -version-info 2:0:0 -shared -no-undefined -rpath /nowhere
tests_cuda_double_libnccl_la_LIBADD = tests/cuda/double/libcudart_double.la -lm

# The CUDA module itself over the doubles: every file of it, the kernels as C++ (kernel_sources, tests/cuda/sources.mk). It lies where no
# program looks; tests/lib.sh lays it beside a copy of a program.
if HAVE_CXX17
check_LTLIBRARIES += tests/cuda/double/finemesh_cuda.la
endif
tests_cuda_double_finemesh_cuda_la_SOURCES = $(cuda_module_c) $(cuda_module_nccl) $(kernel_sources) tests/cuda/double/cudnn.c
tests_cuda_double_finemesh_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(double_cppflags) -DFM_WITH_NCCL -DFM_WITH_CUDNN
tests_cuda_double_finemesh_cuda_la_CXXFLAGS = -std=c++17 -O2 $(CXX_WARN_CFLAGS) $(SANITIZE_CFLAGS)
tests_cuda_double_finemesh_cuda_la_LDFLAGS = -module -avoid-version -shared -no-undefined -export-symbols-regex '^fm_cuda_entry$$' \
	-rpath /nowhere
tests_cuda_double_finemesh_cuda_la_LIBADD = tests/cuda/double/libcudart_double.la libfinemesh.la -lpthread

check_LTLIBRARIES += tests/cuda/double/finemesh_cuda_other.la
tests_cuda_double_finemesh_cuda_other_la_SOURCES = tests/cuda/double/finemesh_cuda_other.c
tests_cuda_double_finemesh_cuda_other_la_LDFLAGS = -module -avoid-version -shared -rpath /nowhere
tests_cuda_double_finemesh_cuda_other_la_LIBADD =

# Programs that call the doubles themselves.
double_ldadd = tests/cuda/double/libcudart_double.la $(LDADD)
