#!/bin/sh
# Memory of convert, reshard and export on models of 40, 158 and 600 MB, on 1 and 4 ranks: it does not grow with the model, and stays
# below 256 MiB a rank beside the largest slice of a tensor. FM_MEMORY_SIZES: other models, as rows of make_model's arguments.
. "$srcdir/tests/lib.sh"
finemesh=$build_dir/finemesh
slack_kb=24576                         # between the sizes: bands and stages that a small model does not fill, tables of names
limit_kb=262144

# More layers at first, then larger tensors too.
sizes=${FM_MEMORY_SIZES:-1x 512 2048 3
4x 512 2048 18
16x 1024 4096 18}

# make_model NAME WIDTH FEED_FORWARD LAYERS: a Hugging Face directory of zeros, whose file is a hole.
make_model()
{
    mkdir -p "$scratch/$1" || return 1
    sed -e "s/\"hidden_size\": .*/\"hidden_size\": $2,/" -e "s/\"intermediate_size\": .*/\"intermediate_size\": $3,/" \
        -e "s/\"num_hidden_layers\": .*/\"num_hidden_layers\": $4,/" -e 's/"num_attention_heads": .*/"num_attention_heads": 8,/' \
        -e 's/"num_key_value_heads": .*/"num_key_value_heads": 4,/' -e "s/\"head_dim\": .*/\"head_dim\": $(($2 / 8)),/" \
        -e 's/"vocab_size": .*/"vocab_size": 16384/' "$source_dir/inputs/tiny-llama/config.json" >"$scratch/$1/config.json"
    awk -v c="$2" -v f="$3" -v layers="$4" '
        function tensor(name, rows, columns) {
            bytes = 2 * rows * (columns > 0 ? columns : 1)
            shape = columns > 0 ? rows "," columns : rows
            printf "%s\"model.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%s],", comma, name, shape
            printf "\"data_offsets\":[%d,%d]}", at, at + bytes
            comma = ","
            at += bytes
        }
        BEGIN {
            printf "{"
            tensor("embed_tokens", 16384, c)
            for (l = 0; l < layers; l++) {
                p = "layers." l "."
                tensor(p "input_layernorm", c)
                tensor(p "mlp.down_proj", c, f)
                tensor(p "mlp.gate_proj", f, c)
                tensor(p "mlp.up_proj", f, c)
                tensor(p "post_attention_layernorm", c)
                tensor(p "self_attn.k_proj", c / 2, c)
                tensor(p "self_attn.o_proj", c, c)
                tensor(p "self_attn.q_proj", c, c)
                tensor(p "self_attn.v_proj", c / 2, c)
            }
            tensor("norm", c)
            printf "}"
            print at >"/dev/stderr"
        }' >"$scratch/header" 2>"$scratch/bytes" || return 1
    header_bytes=$(wc -c <"$scratch/header")
    {                                  # eight bytes, the lowest first
        for byte in $((header_bytes % 256)) $((header_bytes / 256 % 256)) $((header_bytes / 65536)) 0 0 0 0 0; do
            printf "\\$(printf %o "$byte")"
        done
        cat "$scratch/header"
    } >"$scratch/$1/model.safetensors"
    truncate -s $((8 + header_bytes + $(cat "$scratch/bytes"))) "$scratch/$1/model.safetensors"
    printf '[job]\noutput_dir = %s\n[model]\npath = %s\n[data]\ntrain = none.jsonl\n[train]\nsteps = 1\n' \
        "$scratch/run" "$scratch/$1" >"$scratch/$1.ini"
}

# peak NAME RANKS PROGRAM ARGUMENTS...: one run; the largest of its ranks' peaks, in KiB, into $scratch/peak.NAME.
peak()
{
    peak_name=$1 peak_ranks=$2
    shift 2
    rm -f "$scratch/peaks"
    run_ranks "$peak_ranks" "$build_dir/tests/regression/peak" "$scratch/peaks" "$@" || return 1
    [ "$(wc -l <"$scratch/peaks")" -eq "$peak_ranks" ] && sort -n "$scratch/peaks" | tail -1 >"$scratch/peak.$peak_name"
}

# no_more NAME: none of the sizes needs more than the first and the slack; none more than the limit.
no_more()
{
    no_more_first=
    for no_more_size in $(echo "$sizes" | cut -d' ' -f1); do
        no_more_kb=$(cat "$scratch/peak.$1.$no_more_size") || return 1
        no_more_first=${no_more_first:-$no_more_kb}
        no_more_slice_kb=$(cat "$scratch/slice.$no_more_size")
        printf '%-12s %-4s %8d KiB\n' "$1" "$no_more_size" "$no_more_kb"
        [ "$no_more_kb" -le $((no_more_first + slack_kb)) ] && [ "$no_more_kb" -lt $((limit_kb + no_more_slice_kb)) ] || return 1
    done
}

# every_command RANKS MESH: all of them on every size.
every_command()
{
    echo "$sizes" >"$scratch/sizes"
    while read -r name width feed_forward layers; do
        make_model "$name" "$width" "$feed_forward" "$layers" || return 1
        echo $((16384 * width * 2 / 1024)) >"$scratch/slice.$name"
        rm -rf "$scratch/run" "$scratch/resharded"
        peak "convert-$1.$name" "$1" "$finemesh" convert "$scratch/$name.ini" $2 &&
            peak "reshard-$1.$name" "$1" "$finemesh" reshard "$scratch/run/shards" --tp-size 2 --dp-size 2 -o "$scratch/resharded" &&
            peak "export-$1.$name" "$1" "$finemesh" export "$scratch/$name.ini" || return 1
    done <"$scratch/sizes"
    rm -rf "$scratch/run" "$scratch/resharded"
}

for ranks in 1 4; do
    tap_check "every command on $ranks ranks" every_command $ranks distributed.dp_size=$ranks
    for command in convert reshard export; do
        tap_check "$command, $ranks ranks: no more for larger models" no_more $command-$ranks
    done
done
tap_done
