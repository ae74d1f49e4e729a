#!/bin/sh
# distributed.use_hf_tp_plan: whatever a plan cuts and leaves whole, losses and gradient norms are those of one rank; a plan that cannot
# be is refused with the key.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99

cut_attention='"layers.*.self_attn.q_proj": "colwise", "layers.*.self_attn.k_proj": "colwise", "layers.*.self_attn.v_proj": "colwise",
    "layers.*.self_attn.o_proj": "rowwise"'
cut_mlp='"layers.*.mlp.gate_proj": "colwise", "layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"'
norms='"layers.*.input_layernorm": "sequence_parallel", "layers.*.post_attention_layernorm": "sequence_parallel",
    "model.norm": "sequence_parallel"'

# model NAME ENTRIES: the embedded model with a plan in its config.json; without ENTRIES as it is.
model()
{
    mkdir "$scratch/$1"
    cp inputs/tiny-llama/* "$scratch/$1"
    [ $# -eq 1 ] || { printf '{ "base_model_tp_plan": { %s },\n' "$2"; sed '1s/{//' inputs/tiny-llama/config.json; } >"$scratch/$1/config.json"
}
model as_it_is
model empty ''
model attention_whole "$cut_mlp"
model mlp_whole "$cut_attention, \"lm_head\": \"colwise_rep\""
model norms "$cut_attention, $cut_mlp, $norms"
model norms_mlp_whole "$cut_attention, $norms"

# train MODEL RANKS OVERRIDES: three steps; $scratch/numbers are their losses and gradient norms.
train()
{
    train_model=$scratch/$1 train_ranks=$2
    shift 2
    rm -rf "$scratch/out"
    run_ranks "$train_ranks" "$build_dir/finemesh" run inputs/quickstart.ini "model.path=$train_model" "job.output_dir=$scratch/out" \
        train.steps=3 schedule.warmup_steps=0 data.validation= checkpoint.export=final optimizer.eps=1e-6 \
        "$@" >"$scratch/stdout" 2>&1 || { cat "$scratch/stdout"; return 1; }
    sed -n 's/.*"loss": \([^,]*\),.*"grad_norm": \([^,]*\),.*/\1 \2/p' "$scratch/out/metrics.jsonl" >"$scratch/numbers"
}

# as_one MODEL RANKS OVERRIDES: the numbers of one rank, to 1e-5.
as_one()
{
    train "$@" || return 1
    paste "$scratch/one" "$scratch/numbers" | tee "$scratch/both" | awk '
        { for (i = 1; i <= 2; i++) { d = $i - $(i + 2); if (d < 0) d = -d; if (!(d <= 1e-5 * $i)) bad = 1 } }
        END { exit bad || NR != 3 }' || { cat "$scratch/both"; return 1; }
}

tap_check "one rank" train as_it_is 1 distributed.use_hf_tp_plan=no
cp "$scratch/numbers" "$scratch/one"
for plan in as_it_is empty attention_whole mlp_whole norms; do
    tap_check "$plan on tp 2" as_one $plan 2 distributed.use_hf_tp_plan=yes distributed.tp_size=2
done
for plan in attention_whole mlp_whole empty; do
    tap_check "$plan on tp 2 with sequence_parallel" as_one $plan 2 distributed.use_hf_tp_plan=yes distributed.tp_size=2 \
        distributed.sequence_parallel=yes
done
tap_check "norms_mlp_whole on dp 2 x tp 2" as_one norms_mlp_whole 4 distributed.use_hf_tp_plan=yes distributed.tp_size=2
tap_check "attention_whole on tp 3" as_one attention_whole 3 distributed.use_hf_tp_plan=yes distributed.tp_size=3
tap_check "the key does nothing without use_hf_tp_plan" as_one attention_whole 2 distributed.tp_size=2

# What is whole shows in what a rank sends: two of four sums a layer are gone.
sums()
{
    train "$1" 2 distributed.use_hf_tp_plan=yes distributed.tp_size=2 log.traffic=yes || return 1
    awk '$2 == "tp" && $3 == "all-reduce" { print $4 }' "$scratch/stdout"
}
fewer() { [ "$(sums attention_whole)" -lt "$(sums as_it_is)" ] && [ "$(sums empty)" -lt "$(sums mlp_whole)" ]; }
tap_check "a whole half sums nothing over tp" fewer

# refused NAME ENTRIES WORDS
refused()
{
    model "$1" "$2"
    run_ranks 2 "$build_dir/finemesh" run inputs/quickstart.ini "model.path=$scratch/$1" "job.output_dir=$scratch/out" \
        distributed.use_hf_tp_plan=yes distributed.tp_size=2 >"$scratch/stdout" 2>"$scratch/stderr"
    status=$?
    cat "$scratch/stderr"
    [ $status -eq 1 ] && [ "$(grep -c '^finemesh: error: ' "$scratch/stderr")" -eq 1 ] && grep -q -e "base_model_tp_plan: $3" "$scratch/stderr"
}
tap_check "a module that is not there" refused bad1 '"layers.*.self_attn.w_proj": "colwise"' 'a llama model has no module layers.*.self_attn.w_proj'
tap_check "a style that is not there" refused bad2 '"layers.*.mlp.up_proj": "diagonal"' 'layers.*.mlp.up_proj is "diagonal"'
tap_check "a style that the module cannot have" refused bad3 '"layers.*.mlp.up_proj": "rowwise"' 'layers.*.mlp.up_proj is "rowwise"'
tap_check "a half that is neither cut nor whole" refused bad4 "$cut_attention, \"layers.*.mlp.gate_proj\": \"colwise\"" \
    'layers.*.mlp.gate_proj is cut over the tp ranks, but layers.*.mlp.down_proj is not'
tap_check "some norms only" refused bad5 "$cut_mlp, \"norm\": \"sequence_parallel\"" 'norm is sequence_parallel, but'
tap_done
