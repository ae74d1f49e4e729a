# files of src/tensor
libfinemesh_la_SOURCES += \
	src/tensor/device.c src/tensor/device.h src/tensor/device_cuda.h \
	src/tensor/dtype.c src/tensor/dtype.h \
	src/tensor/options.h \
	src/tensor/stopwatch.c src/tensor/stopwatch.h
