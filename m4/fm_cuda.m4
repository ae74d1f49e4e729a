dnl FM_CUDA: the toolkit (nvcc, cudart, cublasLt) and NCCL's header, where they are found or said to be. Sets the conditionals CUDA
dnl and NCCL and, for the summary, fm_cuda and fm_nccl. NCCL is opened at run time, so that its header is enough.
AC_DEFUN([FM_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=DIR], [build the CUDA module; DIR holds bin/nvcc [found by itself]])], [], [with_cuda=auto])
AC_ARG_WITH([nccl], [AS_HELP_STRING([--with-nccl=DIR], [NCCL between GPUs; DIR holds include/nccl.h [found by itself]])], [], [with_nccl=auto])
AC_ARG_VAR([NVCC], [CUDA compiler])
AC_ARG_VAR([NVCCFLAGS], [flags for the CUDA compiler [-O3]])
fm_cuda=no
fm_nccl=no
AS_CASE([$with_cuda],
  [no], [fm_cuda_places=],
  [auto|yes], [fm_cuda_places="$PATH$PATH_SEPARATOR/usr/local/cuda/bin$PATH_SEPARATOR/opt/cuda/bin"],
  [fm_cuda_places=$with_cuda/bin])
AS_IF([test "$with_cuda" != no], [
  AC_PATH_PROG([NVCC], [nvcc], [], [$fm_cuda_places])
  AS_IF([test -n "$NVCC"], [
    AS_CASE([$with_cuda], [auto|yes], [fm_cuda_dir=`dirname \`readlink -f "$NVCC"\``/..], [fm_cuda_dir=$with_cuda])
    fm_cuda_dir=`cd "$fm_cuda_dir" && pwd`
    CUDA_CPPFLAGS="-isystem $fm_cuda_dir/include"
    AS_IF([test -d "$fm_cuda_dir/lib64"], [fm_cuda_lib=$fm_cuda_dir/lib64], [fm_cuda_lib=$fm_cuda_dir/lib])
    CUDA_LIBS="-L$fm_cuda_lib -lcudart -lcublasLt"
    fm_save_CPPFLAGS=$CPPFLAGS
    fm_save_LIBS=$LIBS
    CPPFLAGS="$CPPFLAGS $CUDA_CPPFLAGS"
    LIBS="$CUDA_LIBS $LIBS"
    AC_CHECK_HEADER([cublasLt.h], [AC_CHECK_FUNC([cublasLtMatmul], [AC_CHECK_FUNC([cudaMemcpyAsync], [fm_cuda=yes])])])
    AS_IF([test $fm_cuda = yes && test "$with_nccl" != no], [
      AS_CASE([$with_nccl], [auto|yes], [], [CUDA_CPPFLAGS="$CUDA_CPPFLAGS -isystem $with_nccl/include"])
      CPPFLAGS="$fm_save_CPPFLAGS $CUDA_CPPFLAGS"
      AC_CHECK_HEADER([nccl.h], [fm_nccl=yes])])
    CPPFLAGS=$fm_save_CPPFLAGS
    LIBS=$fm_save_LIBS])])
AS_IF([test "$with_cuda" != auto && test "$with_cuda" != no && test $fm_cuda = no],
  [AC_MSG_ERROR([--with-cuda=$with_cuda: no nvcc, or no cublasLt.h, libcudart and libcublasLt beside it])])
AS_IF([test "$with_nccl" != auto && test "$with_nccl" != no && test $fm_nccl = no],
  [AC_MSG_ERROR([--with-nccl=$with_nccl: no nccl.h, or no CUDA])])
AS_IF([test $fm_cuda = yes], [
  dnl the oldest and the newest that matter, and PTX for what comes; what this nvcc does not know is left out
  fm_known=`"$NVCC" --list-gpu-arch 2>/dev/null`
  CUDA_GENCODE=
  for fm_arch in 80 90 100; do
    AS_CASE(["$fm_known"], [*compute_$fm_arch*],
      [CUDA_GENCODE="$CUDA_GENCODE -gencode arch=compute_$fm_arch,code=sm_$fm_arch"
       fm_newest=$fm_arch])
  done
  CUDA_GENCODE="$CUDA_GENCODE -gencode arch=compute_$fm_newest,code=compute_$fm_newest"
  AS_IF([test -z "$NVCCFLAGS"], [NVCCFLAGS=-O3])
  fm_cuda="$NVCC (`"$NVCC" --version | sed -n 's/.*release \(@<:@0-9.@:>@*\).*/\1/p'`)"])
AC_SUBST([CUDA_CPPFLAGS])
AC_SUBST([CUDA_GENCODE])
AC_SUBST([CUDA_LIBS])
AC_SUBST([fm_cuda_lib])
AM_CONDITIONAL([CUDA], [test "$fm_cuda" != no])
AM_CONDITIONAL([NCCL], [test "$fm_nccl" != no])
])
