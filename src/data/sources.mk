# files of src/data
libfinemesh_la_SOURCES += \
	src/data/batch.c src/data/batch.h \
	src/data/bpe.c src/data/bpe.h \
	src/data/bpe_table.c src/data/bpe_table.h \
	src/data/dataset.c src/data/dataset.h \
	src/data/files.c src/data/files.h \
	src/data/indexer.c src/data/indexer.h \
	src/data/options.h \
	src/data/order.c src/data/order.h \
	src/data/sample.c src/data/sample.h \
	src/data/store.c src/data/store.h \
	src/data/token_line.c src/data/token_line.h \
	src/data/tokenizer.c \
	src/data/tokenizer_added.c src/data/tokenizer_added.h \
	src/data/tokenizer_class.c src/data/tokenizer_class.h \
	src/data/tokenizer_file.c src/data/tokenizer_file.h \
	src/data/tokenizer_pipeline.c src/data/tokenizer_pipeline.h \
	src/data/tokenizer_regex.c src/data/tokenizer_regex.h \
	src/data/tokenizer_regex_program.c src/data/tokenizer_regex_program.h \
	src/data/tokenizer_steps.c src/data/tokenizer_steps.h \
	src/data/tokenizer_template.c src/data/tokenizer_template.h \
	src/data/tokenizer_bytes.c src/data/tokenizer_bytes.h \
	src/data/unicode.c src/data/unicode.h \
	src/data/unicode_tables.c src/data/unicode_tables.h
