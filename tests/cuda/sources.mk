# Kernels on the host: see README.md.
noinst_HEADERS += tests/cuda/cuda_on_host.h
EXTRA_DIST += tests/cuda/cuda_on_host.cpp
