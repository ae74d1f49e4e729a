libfinemesh_la_SOURCES += \
	src/base/clock.c src/base/clock.h \
	src/base/clones.h \
	src/base/complaints.c src/base/complaints.h \
	src/base/crc.c src/base/crc.h \
	src/base/error.c src/base/error.h \
	src/base/file.c src/base/file.h \
	src/base/ini.c src/base/ini.h \
	src/base/json.c src/base/json.h \
	src/base/log.c src/base/log.h \
	src/base/memory.c src/base/memory.h \
	src/base/random.c src/base/random.h \
	src/base/task.c src/base/task.h \
	src/base/text.c src/base/text.h \
	src/base/writer.c src/base/writer.h
