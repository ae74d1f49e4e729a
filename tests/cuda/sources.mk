# Kernels on the host: see README.md. tests/cuda/kernels/X.cpp is src/ops/X.cu for the C++ compiler.
kernel_headers = tests/cuda/cuda_on_host.h tests/cuda/kernel_lab.h
kernel_sources = \
	tests/cuda/cuda_on_host.cpp \
	tests/cuda/kernels/attention_cuda.cpp \
	tests/cuda/kernels/attention_mma_backward_cuda.cpp \
	tests/cuda/kernels/attention_mma_cuda.cpp \
	tests/cuda/kernels/attention_plain_cuda.cpp \
	tests/cuda/kernels/columns_cuda.cpp \
	tests/cuda/kernels/elementwise_cuda.cpp \
	tests/cuda/kernels/embedding_cuda.cpp \
	tests/cuda/kernels/loss_cuda.cpp \
	tests/cuda/kernels/norm_cuda.cpp \
	tests/cuda/kernels/optimizer_cuda.cpp \
	tests/cuda/kernels/rope_cuda.cpp
kernel_tests = \
	tests/cuda/test_attention_cuda \
	tests/cuda/test_attention_fused \
	tests/cuda/test_elementwise \
	tests/cuda/test_on_host \
	tests/cuda/test_rows \
	tests/cuda/test_words
noinst_HEADERS += $(kernel_headers)
EXTRA_DIST += tests/cuda/README.md

# Always under AddressSanitizer where the compiler has it: that is what finds accesses beyond an array.
kernel_cppflags = $(AM_CPPFLAGS) -DFM_CUDA_ON_HOST -I$(srcdir)/tests/cuda
kernel_cxxflags = -std=c++17 $(CXX_WARN_CFLAGS) $(KERNEL_SANITIZE) $(SANITIZE_CFLAGS)

if HAVE_CXX17
if HAVE_CMOCKA
if !SANITIZERS
# in a build with the sanitizers the module over the doubles has the kernels, and these would be compiled once more for the same
check_LTLIBRARIES += tests/cuda/libkernels.la
check_PROGRAMS += $(kernel_tests)
TESTS += $(kernel_tests)
endif
endif
endif
tests_cuda_libkernels_la_SOURCES = $(kernel_sources) tests/cuda/kernel_lab.c tests/cuda/kernel_lab_host.c
tests_cuda_libkernels_la_CPPFLAGS = $(kernel_cppflags)
tests_cuda_libkernels_la_CFLAGS = $(AM_CFLAGS) $(KERNEL_SANITIZE)
tests_cuda_libkernels_la_CXXFLAGS = $(kernel_cxxflags)
tests_cuda_libkernels_la_LIBADD =

kernel_cflags = $(AM_CFLAGS) $(KERNEL_SANITIZE)
kernel_ldadd = tests/cuda/libkernels.la $(LDADD) -lstdc++ -lpthread
tests_cuda_test_attention_cuda_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_attention_cuda_CFLAGS = $(kernel_cflags)
tests_cuda_test_attention_cuda_LDADD = $(kernel_ldadd)
tests_cuda_test_attention_fused_SOURCES = tests/cuda/test_attention_fused.c src/ops/attention_fused_cuda.c
tests_cuda_test_attention_fused_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_attention_fused_CFLAGS = $(kernel_cflags)
tests_cuda_test_attention_fused_LDADD = $(kernel_ldadd)
tests_cuda_test_elementwise_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_elementwise_CFLAGS = $(kernel_cflags)
tests_cuda_test_elementwise_LDADD = $(kernel_ldadd)
tests_cuda_test_on_host_SOURCES = tests/cuda/test_on_host.cpp
tests_cuda_test_on_host_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_on_host_CXXFLAGS = $(kernel_cxxflags)
tests_cuda_test_on_host_LDADD = $(kernel_ldadd)
tests_cuda_test_rows_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_rows_CFLAGS = $(kernel_cflags)
tests_cuda_test_rows_LDADD = $(kernel_ldadd)
tests_cuda_test_words_CPPFLAGS = $(kernel_cppflags)
tests_cuda_test_words_CFLAGS = $(kernel_cflags)
tests_cuda_test_words_LDADD = $(kernel_ldadd)

# Our graphs before cuDNN itself, where its headers are.
if CUDNN
check_PROGRAMS += tests/cuda/cudnn_graphs
TESTS += tests/cuda/cudnn_graphs
endif
cudnn_graphs_object = tests/cuda/cudnn_graphs-cudnn_graphs.$(OBJEXT)
$(cudnn_graphs_object): CXXFLAGS = -O0
tests_cuda_cudnn_graphs_SOURCES = tests/cuda/cudnn_graphs.cpp
tests_cuda_cudnn_graphs_CPPFLAGS = $(AM_CPPFLAGS) $(CUDNN_CPPFLAGS) $(CUDA_CPPFLAGS)
tests_cuda_cudnn_graphs_CXXFLAGS = -std=c++17 $(CXX_WARN_CFLAGS)
tests_cuda_cudnn_graphs_LDFLAGS = -R$(fm_cuda_lib)
tests_cuda_cudnn_graphs_LDADD = libfinemesh.la -lstdc++

# The same tests for a GPU, given the module's file: see README.md.
gpu_tests = \
	tests/cuda/gpu_elementwise \
	tests/cuda/gpu_rows \
	tests/cuda/gpu_words
if HAVE_CMOCKA
check_PROGRAMS += $(gpu_tests)
endif
check_PROGRAMS += tests/cuda/gpu_bandwidth
gpu_lab = tests/cuda/kernel_lab.c tests/cuda/kernel_lab_module.c
tests_cuda_gpu_elementwise_SOURCES = tests/cuda/test_elementwise.c $(gpu_lab)
tests_cuda_gpu_rows_SOURCES = tests/cuda/test_rows.c $(gpu_lab)
tests_cuda_gpu_words_SOURCES = tests/cuda/test_words.c $(gpu_lab)
