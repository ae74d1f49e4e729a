dnl FM_CUDNN: the headers of cuDNN and of its C++ frontend, where they are found or said to be. Sets the conditional CUDNN and, for the
dnl summary, fm_cudnn. The library is opened at run time: its folder, where it is known, is where it is looked for last.
AC_DEFUN([FM_CUDNN], [
AC_REQUIRE([FM_CUDA])
AC_ARG_WITH([cudnn], [AS_HELP_STRING([--with-cudnn=DIR], [attention by cuDNN; DIR holds include/cudnn.h [found by itself]])],
  [], [with_cudnn=auto])
AC_ARG_WITH([cudnn-frontend], [AS_HELP_STRING([--with-cudnn-frontend=DIR],
  [its C++ headers; DIR or DIR/include holds cudnn_frontend.h [found by itself, or below that of cuDNN]])], [], [with_cudnn_frontend=auto])
fm_cudnn=no
AS_CASE([$with_cudnn], [auto|yes], [fm_cudnn_dir=], [no], [fm_cudnn_dir=], [fm_cudnn_dir=$with_cudnn])
AS_IF([test "$fm_cuda" != no && test "$with_cudnn" != no && test "$with_cudnn_frontend" != no], [
  dnl a wheel of Python's has the frontend in site-packages/include and cuDNN in site-packages/nvidia/cudnn
  AS_CASE([$with_cudnn_frontend],
    [auto|yes], [AS_IF([test -n "$fm_cudnn_dir"], [fm_frontend_places="$fm_cudnn_dir/include $fm_cudnn_dir $fm_cudnn_dir/../../include"],
                       [fm_frontend_places="$fm_cuda_dir/include /usr/include /usr/local/include"])],
    [fm_frontend_places="$with_cudnn_frontend/include $with_cudnn_frontend"])
  CUDNN_CPPFLAGS=
  for fm_place in $fm_frontend_places; do
    AS_IF([test -z "$CUDNN_CPPFLAGS" && test -f "$fm_place/cudnn_frontend.h"], [CUDNN_CPPFLAGS="-isystem $fm_place"])
  done
  AS_IF([test -n "$fm_cudnn_dir"], [CUDNN_CPPFLAGS="-isystem $fm_cudnn_dir/include $CUDNN_CPPFLAGS"
    for fm_place in lib lib64; do
      AS_IF([test -f "$fm_cudnn_dir/$fm_place/libcudnn.so.9"],
        [CUDNN_CPPFLAGS="$CUDNN_CPPFLAGS -DFM_CUDNN_LIBDIR='\"`cd "$fm_cudnn_dir/$fm_place" && pwd`\"'"])
    done])
  CUDNN_CPPFLAGS="$CUDNN_CPPFLAGS -DCUDNN_FRONTEND_SKIP_JSON_LIB -DNV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING"
  fm_save_CPPFLAGS=$CPPFLAGS
  CPPFLAGS="$CPPFLAGS $CUDNN_CPPFLAGS $CUDA_CPPFLAGS"
  AC_MSG_CHECKING([for cuDNN 9.10 and its frontend 1.14 or later])
  AC_PREPROC_IFELSE([AC_LANG_SOURCE([[#include <cudnn_version.h>
#include <cudnn_frontend_version.h>
#if CUDNN_VERSION < 91000 || CUDNN_FRONTEND_VERSION < 11400
#error too old
#endif]])], [fm_cudnn=`AS_ECHO(['CUDNN_MAJOR.CUDNN_MINOR, frontend CUDNN_FRONTEND_MAJOR_VERSION.CUDNN_FRONTEND_MINOR_VERSION']) |
      $CC -E -P $CPPFLAGS -include cudnn_version.h -include cudnn_frontend_version.h -x c - | tail -n 1 | tr -d ' ' | sed 's/,/, /; s/frontend/frontend /'`])
  AC_MSG_RESULT([$fm_cudnn])
  CPPFLAGS=$fm_save_CPPFLAGS])
AS_CASE([$with_cudnn:$with_cudnn_frontend:$fm_cudnn], [auto:auto:no|no:*:no|auto:no:no], [],
  [*:no], [AC_MSG_ERROR([--with-cudnn=$with_cudnn --with-cudnn-frontend=$with_cudnn_frontend: no cudnn_version.h of 9.10 or later, no cudnn_frontend.h of 1.14 or later, or no CUDA])])
AC_SUBST([CUDNN_CPPFLAGS])
AC_SUBST([fm_cudnn])
AM_CONDITIONAL([CUDNN], [test "$fm_cudnn" != no])
])
