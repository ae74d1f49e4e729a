# What transformers made of small configurations and models, and the scripts that asked it.
dist_check_DATA += \
	tests/oracle/README.md tests/oracle/make_configs.py tests/oracle/make_models.py tests/oracle/make_rope.py \
	tests/unit/data/configs.json tests/unit/data/rope.json
EXTRA_DIST += tests/oracle/data

# Reads what transformers said and what a run left; started by models.sh.
check_PROGRAMS += tests/oracle/check_model
