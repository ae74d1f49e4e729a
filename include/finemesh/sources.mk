finemesh_includedir = $(includedir)/finemesh
finemesh_include_HEADERS = \
	include/finemesh/dtype.h \
	include/finemesh/error.h \
	include/finemesh/finemesh.h \
	include/finemesh/mesh.h \
	include/finemesh/model.h \
	include/finemesh/tokenizer.h

pkgconfigdir = $(libdir)/pkgconfig
pkgconfig_DATA = finemesh.pc
