# The embedded input: a tiny model, data and a job, distributed and used by tests.
inputs = \
	inputs/instruct-train.jsonl \
	inputs/instruct-valid.jsonl \
	inputs/make_tiny.py \
	inputs/quickstart.ini \
	inputs/tiny-llama/config.json \
	inputs/tiny-llama/generation_config.json \
	inputs/tiny-llama/model.safetensors \
	inputs/tiny-llama/tokenizer.json \
	inputs/tiny-llama/tokenizer_config.json
EXTRA_DIST += $(inputs)
