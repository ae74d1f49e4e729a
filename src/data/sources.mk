# files of src/data
libfinemesh_la_SOURCES += \
	src/data/batch.c src/data/batch.h \
	src/data/dataset.c src/data/dataset.h \
	src/data/files.c src/data/files.h \
	src/data/indexer.c src/data/indexer.h \
	src/data/options.h \
	src/data/order.c src/data/order.h \
	src/data/sample.c src/data/sample.h \
	src/data/store.c src/data/store.h \
	src/data/token_line.c src/data/token_line.h
