libfinemesh_la_SOURCES += \
	src/ckpt/checkpoint.c src/ckpt/checkpoint.h \
	src/ckpt/compare.c src/ckpt/compare.h \
	src/ckpt/convert.c src/ckpt/convert.h \
	src/ckpt/exchange.c src/ckpt/exchange.h \
	src/ckpt/export.c src/ckpt/export.h \
	src/ckpt/export_set.c src/ckpt/export_set.h \
	src/ckpt/h5.c src/ckpt/h5.h \
	src/ckpt/h5_driver.c src/ckpt/h5_driver.h \
	src/ckpt/hf.c src/ckpt/hf.h \
	src/ckpt/hf_files.c src/ckpt/hf_files.h \
	src/ckpt/index.c src/ckpt/index.h \
	src/ckpt/inspect.c src/ckpt/inspect.h \
	src/ckpt/load.c src/ckpt/load.h \
	src/ckpt/match.c src/ckpt/match.h \
	src/ckpt/options.h \
	src/ckpt/publish.c src/ckpt/publish.h \
	src/ckpt/safetensors.c src/ckpt/safetensors.h \
	src/ckpt/save.c src/ckpt/save.h \
	src/ckpt/shard_scan.c src/ckpt/shard_scan.h \
	src/ckpt/shards.c src/ckpt/shards.h \
	src/ckpt/source.c src/ckpt/source.h \
	src/ckpt/verify.c src/ckpt/verify.h
