/* The whole public library: #include <finemesh/finemesh.h>, link with -lfinemesh (pkg-config finemesh). */
#ifndef FINEMESH_FINEMESH_H
#define FINEMESH_FINEMESH_H

#include "finemesh/dtype.h"
#include "finemesh/error.h"
#include "finemesh/mesh.h"
#include "finemesh/model.h"
#include "finemesh/tokenizer.h"

#endif
