# The CUDA module, opened by the program when a job wants a GPU. Its files lie in the folders of their layers.
cuda_module_c = \
	src/mesh/comm_nccl.h \
	src/mesh/own_gpu.c src/mesh/own_gpu.h \
	src/ops/attention_cuda.h src/ops/attention_mma_cuda.h \
	src/ops/attention_cudnn.h \
	src/ops/attention_fused_cuda.c src/ops/attention_fused_cuda.h \
	src/ops/compute_cuda.c \
	src/ops/cuda.h src/ops/cuda_kernel.h src/ops/cuda_mma.h \
	src/ops/cuda_entry.c \
	src/ops/cuda_module.h \
	src/ops/gemm_cuda.c src/ops/gemm_cuda.h \
	src/tensor/cuda.h \
	src/tensor/device_cuda.c src/tensor/device_cuda.h
# where NCCL's header is
cuda_module_nccl = \
	src/mesh/comm_nccl.c \
	src/mesh/nccl_library.c src/mesh/nccl_library.h
# where the headers of cuDNN and of its C++ frontend are
cuda_module_cudnn = src/ops/attention_cudnn.cpp
cuda_module_cu = \
	src/ops/attention_cuda.cu \
	src/ops/attention_mma_backward_cuda.cu \
	src/ops/attention_mma_cuda.cu \
	src/ops/attention_plain_cuda.cu \
	src/ops/columns_cuda.cu \
	src/ops/elementwise_cuda.cu \
	src/ops/embedding_cuda.cu \
	src/ops/loss_cuda.cu \
	src/ops/norm_cuda.cu \
	src/ops/optimizer_cuda.cu \
	src/ops/rope_cuda.cu
EXTRA_DIST += $(cuda_module_c) $(cuda_module_nccl) $(cuda_module_cudnn) $(cuda_module_cu)

if CUDA
pkglib_LTLIBRARIES = finemesh_cuda.la
finemesh_cuda_la_SOURCES = $(cuda_module_c) $(cuda_module_cu)
finemesh_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CPPFLAGS)
finemesh_cuda_la_LDFLAGS = -module -avoid-version -shared -no-undefined -export-symbols-regex '^fm_cuda_entry$$' -Wl,-z,defs -R$(fm_cuda_lib)
finemesh_cuda_la_LIBADD = libfinemesh.la $(CUDA_LIBS) -lstdc++
if NCCL
finemesh_cuda_la_SOURCES += $(cuda_module_nccl)
finemesh_cuda_la_CPPFLAGS += -DFM_WITH_NCCL
endif
# A library of its own, for flags of its own: the frontend is 100,000 lines of templates that only make plans, so -O1 is enough; at -O2 with -g
# it takes three times the time and twice the memory. CXXFLAGS stand behind a target's own flags: so they are set for the object.
if CUDNN
noinst_LTLIBRARIES = libfinemesh_cudnn.la
libfinemesh_cudnn_la_SOURCES = $(cuda_module_cudnn)
libfinemesh_cudnn_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDNN_CPPFLAGS) $(CUDA_CPPFLAGS)
libfinemesh_cudnn_la_CXXFLAGS = -std=c++17 $(CXX_WARN_CFLAGS)
cudnn_object = src/ops/libfinemesh_cudnn_la-attention_cudnn.lo
$(cudnn_object): CXXFLAGS = -O1
finemesh_cuda_la_LIBADD += libfinemesh_cudnn.la
finemesh_cuda_la_CPPFLAGS += -DFM_WITH_CUDNN
endif

SUFFIXES = .cu
AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =
# libtool takes -shared for itself: only the position-independent object is made
.cu.lo:
	$(AM_V_NVCC)$(MKDIR_P) $(@D)/$(DEPDIR) && $(LIBTOOL) $(AM_V_lt) --tag=CC --mode=compile $(NVCC) -shared -ccbin "$(CXX)" \
	  -forward-unknown-to-host-compiler -std=c++17 $(NVCCFLAGS) --threads 2 $(CUDA_GENCODE) $(DEFS) $(AM_CPPFLAGS) $(CUDA_CPPFLAGS) \
	  -MMD -MP -MF $(@D)/$(DEPDIR)/$(*F).cu.Plo -MT $@ -c -o $@ $<
-include $(cuda_module_cu:src/ops/%.cu=src/ops/$(DEPDIR)/%.cu.Plo)
CLEANFILES += src/ops/$(DEPDIR)/*.cu.Plo
endif
