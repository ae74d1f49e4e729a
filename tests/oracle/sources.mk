# What transformers made of small configurations and models, and the scripts that asked it.
dist_check_DATA += \
	tests/oracle/README.md tests/oracle/make_configs.py tests/oracle/make_models.py tests/oracle/make_rope.py \
	tests/unit/data/configs.json tests/unit/data/rope.json
EXTRA_DIST += tests/oracle/data

# Reads what transformers said and what a run left; started by models.sh.
check_PROGRAMS += tests/oracle/check_model

# The tokenizer's small models, the characters as the tokenizers library sees them, and the live comparison.
dist_check_DATA += tests/oracle/make_tokenizers.py tests/oracle/tokenizer_compare.py tests/oracle/tokenizer_unicode.py
EXTRA_DIST += tests/unit/data/tokenizer
