finemesh_includedir = $(includedir)/finemesh
finemesh_include_HEADERS = \
	include/finemesh/error.h \
	include/finemesh/mesh.h \
	include/finemesh/tokenizer.h
