# files of src/mesh
libfinemesh_la_SOURCES += \
	src/mesh/comm.c src/mesh/comm.h \
	src/mesh/comm_backend.h \
	src/mesh/comm_mpi.c \
	src/mesh/comm_staged.c src/mesh/comm_staged.h \
	src/mesh/groups.c \
	src/mesh/mesh.c \
	src/mesh/timed.c src/mesh/timed.h \
	src/mesh/watch.c src/mesh/watch.h
