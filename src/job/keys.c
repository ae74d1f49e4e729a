#include "job/keys.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/memory.h"

static const fm_choice compute_dtypes[] = { { "auto", FM_DTYPE_AUTO }, { "float32", FM_DTYPE_FLOAT32 },
                                            { "bfloat16", FM_DTYPE_BFLOAT16 }, { "float16", FM_DTYPE_FLOAT16 }, { NULL, 0 } };
static const fm_choice sum_dtypes[] = { { "float32", FM_DTYPE_FLOAT32 }, { "bfloat16", FM_DTYPE_BFLOAT16 }, { NULL, 0 } };
static const fm_choice master_dtypes[] = { { "float32", FM_DTYPE_FLOAT32 }, { "same", FM_DTYPE_SAME }, { NULL, 0 } };
static const fm_choice inits[] = { { "pretrained", FM_INIT_PRETRAINED }, { "random", FM_INIT_RANDOM }, { NULL, 0 } };
static const fm_choice backends[] = {
    { "auto", FM_BACKEND_AUTO }, { "mpi", FM_BACKEND_MPI }, { "nccl", FM_BACKEND_NCCL }, { NULL, 0 }
};
static const fm_choice recomputes[] = { { "no", FM_RECOMPUTE_NO }, { "full", FM_RECOMPUTE_FULL },
                                        { "selective", FM_RECOMPUTE_SELECTIVE }, { NULL, 0 } };
static const fm_choice pipelines[] = { { "gpipe", FM_PIPELINE_GPIPE }, { "1f1b", FM_PIPELINE_1F1B },
                                       { "interleaved1f1b", FM_PIPELINE_INTERLEAVED_1F1B }, { "zb", FM_PIPELINE_ZB },
                                       { NULL, 0 } };
static const fm_choice formats[] = { { "auto", FM_FORMAT_AUTO }, { "tokens", FM_FORMAT_TOKENS }, { "text", FM_FORMAT_TEXT },
                                     { "instruction", FM_FORMAT_INSTRUCTION }, { "chat", FM_FORMAT_CHAT }, { NULL, 0 } };
static const fm_choice optimizers[] = { { "adamw", FM_OPTIMIZER_ADAMW }, { NULL, 0 } };
static const fm_choice schedules[] = { { "constant", FM_SCHEDULE_CONSTANT }, { "linear", FM_SCHEDULE_LINEAR },
                                       { "cosine", FM_SCHEDULE_COSINE }, { "wsd", FM_SCHEDULE_WSD }, { NULL, 0 } };
static const fm_choice pefts[] = { { "none", FM_PEFT_NONE }, { "lora", FM_PEFT_LORA }, { "dora", FM_PEFT_DORA }, { NULL, 0 } };
static const fm_choice resumes[] = { { "auto", 0 }, { "no", 0 }, { NULL, 0 } };
static const fm_choice exports[] = {
    { "no", FM_EXPORT_NO }, { "final", FM_EXPORT_FINAL }, { "every", FM_EXPORT_EVERY }, { NULL, 0 }
};
static const fm_choice devices[] = { { "auto", FM_DEVICE_TYPE_AUTO }, { "cpu", FM_DEVICE_TYPE_CPU },
                                     { "cuda", FM_DEVICE_TYPE_CUDA }, { NULL, 0 } };

#define AT(member) offsetof(fm_job, member)
#define NO_LIMITS 0, 0, false, false
#define FROM(low) low, INFINITY, false, false
#define ABOVE(low) low, INFINITY, false, true
#define BELOW(low, high) low, high, true, false
#define EXTENT 1, 1 << 20, false, false           /* of a mesh */
#define COUNT(low) low, 1e9, false, false         /* of steps or samples: products of two stay within int64_t */

static const fm_key table[] = {
    { "job", "name", FM_KEY_TEXT, AT(name), "", NO_LIMITS, NULL, NULL,
      "name of the run; default: the job file's stem" },
    { "job", "output_dir", FM_KEY_PATH, AT(output_dir), "", NO_LIMITS, NULL, NULL,
      "everything the job writes; default: runs/NAME" },
    { "job", "seed", FM_KEY_INT64, AT(seed), "42", FROM(0), NULL, NULL,
      "of initial values, order and dropout" },
    { "job", "deterministic", FM_KEY_BOOL, AT(deterministic), "no", NO_LIMITS, NULL, NULL,
      "bitwise repeatable on a GPU (a CPU always is)" },
    { "job", "overwrite", FM_KEY_BOOL, AT(overwrite), "no", NO_LIMITS, NULL, NULL,
      "resume=no may start where another run wrote, and a complete run of another job may be replaced" },
    { "job", "watchdog", FM_KEY_INT64, AT(watchdog), "1800", 0, 1e9, false, false, NULL, NULL,
      "seconds that a rank waits for another before the run is ended; 0: for ever" },
    { "job", "max_time", FM_KEY_TEXT, AT(max_time), "", NO_LIMITS, NULL, NULL,
      "HH:MM:SS or seconds; a checkpoint is complete before; default: Slurm's" },

    { "model", "path", FM_KEY_PATH, AT(model.path), "", NO_LIMITS, NULL, NULL,
      "HF directory: config.json, safetensors, tokenizer (required)" },
    { "model", "dtype", FM_KEY_CHOICE, AT(model.dtype), "auto", NO_LIMITS, compute_dtypes, NULL,
      "of compute; auto: the checkpoint's on a GPU, float32 on a CPU" },
    { "model", "init", FM_KEY_CHOICE, AT(model.init), "pretrained", NO_LIMITS, inits, NULL,
      "random: config.json only, HF's initialiser range" },

    { "distributed", "tp_size", FM_KEY_INT, AT(distributed.sizes.tp_size), "1", EXTENT, NULL, NULL,
      "tensor-parallel ranks" },
    { "distributed", "cp_size", FM_KEY_INT, AT(distributed.sizes.cp_size), "1", EXTENT, NULL, NULL,
      "context-parallel ranks" },
    { "distributed", "pp_size", FM_KEY_INT, AT(distributed.sizes.pp_size), "1", EXTENT, NULL, NULL,
      "pipeline stages" },
    { "distributed", "ep_size", FM_KEY_INT, AT(distributed.sizes.ep_size), "1", EXTENT, NULL, "1",
      "expert-parallel ranks" },
    { "distributed", "dp_replicate_size", FM_KEY_INT, AT(distributed.sizes.dp_replicate_size), "1", EXTENT, NULL, NULL,
      "copies of the sharded model; dp_shard = dp_size / this" },
    { "distributed", "dp_size", FM_KEY_INT, AT(distributed.sizes.dp_size), "0", 0, 1 << 20, false, false, NULL, NULL,
      "data-parallel ranks; 0: ranks / (tp x cp x pp)" },
    { "distributed", "backend", FM_KEY_CHOICE, AT(distributed.backend), "auto", NO_LIMITS, backends, NULL,
      "of collectives" },
    { "distributed", "use_hf_tp_plan", FM_KEY_BOOL, AT(distributed.use_hf_tp_plan), "no", NO_LIMITS, NULL, NULL,
      "transformers' tensor-parallel plan instead of the family's own" },
    { "distributed", "reduce_dtype", FM_KEY_CHOICE, AT(distributed.reduce_dtype), "float32", NO_LIMITS, sum_dtypes, NULL,
      "of gradient sums between ranks" },
    { "distributed", "sequence_parallel", FM_KEY_BOOL, AT(distributed.sequence_parallel), "no", NO_LIMITS, NULL, NULL,
      "tp ranks share the rows between blocks" },
    { "distributed", "activation_checkpointing", FM_KEY_CHOICE, AT(distributed.activation_checkpointing), "no", NO_LIMITS,
      recomputes, NULL,
      "what the backward pass computes again" },

    { "device_mesh", "pp", FM_KEY_INT, AT(distributed.explicit_mesh.size[FM_PP]), "", EXTENT, NULL, NULL,
      "pipeline stages; this section stands instead of the sizes" },
    { "device_mesh", "dp_replicate", FM_KEY_INT, AT(distributed.explicit_mesh.size[FM_DP_REPLICATE]), "", EXTENT, NULL, NULL,
      "groups that copy the sharded model; the product is the number of ranks" },
    { "device_mesh", "dp_shard", FM_KEY_INT, AT(distributed.explicit_mesh.size[FM_DP_SHARD]), "", EXTENT, NULL, NULL,
      "data-parallel ranks of a group; 1 where an extent is not given" },
    { "device_mesh", "cp", FM_KEY_INT, AT(distributed.explicit_mesh.size[FM_CP]), "", EXTENT, NULL, NULL,
      "context-parallel ranks" },
    { "device_mesh", "tp", FM_KEY_INT, AT(distributed.explicit_mesh.size[FM_TP]), "", EXTENT, NULL, NULL,
      "tensor-parallel ranks" },

    { "pipeline", "schedule", FM_KEY_CHOICE, AT(pipeline.schedule), "1f1b", NO_LIMITS, pipelines, NULL,
      "order of microbatches on the stages" },
    { "pipeline", "virtual_stages", FM_KEY_INT, AT(pipeline.virtual_stages), "1", 1, 1024, false, false, NULL, NULL,
      "model chunks a rank" },

    { "data", "train", FM_KEY_PATHS, AT(data.train), "", NO_LIMITS, NULL, NULL,
      "JSONL files, comma separated, globs allowed (required to train)" },
    { "data", "validation", FM_KEY_PATHS, AT(data.validation), "", NO_LIMITS, NULL, NULL,
      "JSONL files, comma separated, globs allowed" },
    { "data", "format", FM_KEY_CHOICE, AT(data.format), "auto", NO_LIMITS, formats, "auto tokens text instruction",
      "of a line" },
    { "data", "question_column", FM_KEY_TEXT, AT(data.question_column), "question", NO_LIMITS, NULL, NULL,
      "of format instruction" },
    { "data", "context_column", FM_KEY_TEXT, AT(data.context_column), "context", NO_LIMITS, NULL, NULL,
      "of format instruction" },
    { "data", "answer_column", FM_KEY_TEXT, AT(data.answer_column), "answer", NO_LIMITS, NULL, NULL,
      "of format instruction" },
    { "data", "seq_length", FM_KEY_INT64, AT(data.seq_length), "1024", 2, 1 << 30, false, false, NULL, NULL,
      "tokens of a row; samples are cut to it" },
    { "data", "packing", FM_KEY_BOOL, AT(data.packing), "no", NO_LIMITS, NULL, "no",
      "documents share a row and do not see each other" },
    { "data", "shuffle", FM_KEY_BOOL, AT(data.shuffle), "yes", NO_LIMITS, NULL, NULL,
      "no: samples come in the files' order" },
    { "data", "mask_prompt", FM_KEY_BOOL, AT(data.mask_prompt), "yes", NO_LIMITS, NULL, NULL,
      "loss on answers only (instruction, chat)" },

    { "batch", "global_batch_size", FM_KEY_INT64, AT(batch.global_batch_size), "8", COUNT(1), NULL, NULL,
      "samples a step" },
    { "batch", "local_batch_size", FM_KEY_INT64, AT(batch.local_batch_size), "1", COUNT(1), NULL, NULL,
      "samples a microbatch and dp rank" },

    { "train", "steps", FM_KEY_INT64, AT(train.steps), "", COUNT(1), NULL, NULL,
      "updates; this or epochs" },
    { "train", "epochs", FM_KEY_INT64, AT(train.epochs), "", COUNT(1), NULL, NULL,
      "passes over the data; this or steps" },

    { "optimizer", "name", FM_KEY_CHOICE, AT(optimizer.name), "adamw", NO_LIMITS, optimizers, NULL,
      "torch.optim.AdamW's meaning" },
    { "optimizer", "lr", FM_KEY_NUMBER, AT(optimizer.lr), "1e-5", FROM(0), NULL, NULL,
      "highest learning rate" },
    { "optimizer", "beta1", FM_KEY_NUMBER, AT(optimizer.beta1), "0.9", BELOW(0, 1), NULL, NULL,
      "decay of the first moment" },
    { "optimizer", "beta2", FM_KEY_NUMBER, AT(optimizer.beta2), "0.999", BELOW(0, 1), NULL, NULL,
      "decay of the second moment" },
    { "optimizer", "eps", FM_KEY_NUMBER, AT(optimizer.eps), "1e-8", FROM(0), NULL, NULL,
      "added to the root of the second moment" },
    { "optimizer", "weight_decay", FM_KEY_NUMBER, AT(optimizer.weight_decay), "0.01", FROM(0), NULL, NULL,
      "decoupled; on every parameter" },
    { "optimizer", "no_decay", FM_KEY_TEXT, AT(optimizer.no_decay), "", NO_LIMITS, NULL, NULL,
      "patterns of tensors without weight decay" },
    { "optimizer", "clip_grad_norm", FM_KEY_NUMBER, AT(optimizer.clip_grad_norm), "1.0", FROM(0), NULL, NULL,
      "largest gradient norm; 0: off" },
    { "optimizer", "master_dtype", FM_KEY_CHOICE, AT(optimizer.master_dtype), "float32", NO_LIMITS, master_dtypes, NULL,
      "what is updated; same: the compute dtype, no master copy" },
    { "optimizer", "state_dtype", FM_KEY_CHOICE, AT(optimizer.state_dtype), "float32", NO_LIMITS, sum_dtypes, NULL,
      "of the moments" },

    { "schedule", "name", FM_KEY_CHOICE, AT(schedule.name), "cosine", NO_LIMITS, schedules, NULL,
      "of the learning rate" },
    { "schedule", "warmup_steps", FM_KEY_INT64, AT(schedule.warmup_steps), "0", COUNT(0), NULL, NULL,
      "linear warm-up; fewer than the steps" },
    { "schedule", "min_lr", FM_KEY_NUMBER, AT(schedule.min_lr), "0", FROM(0), NULL, NULL,
      "where linear, cosine and wsd go; at most lr" },
    { "schedule", "decay_steps", FM_KEY_INT64, AT(schedule.decay_steps), "", COUNT(1), NULL, NULL,
      "wsd; default: a tenth of the steps" },

    { "peft", "type", FM_KEY_CHOICE, AT(peft.type), "none", NO_LIMITS, pefts, "none",
      "adapters instead of the whole model" },
    { "peft", "dim", FM_KEY_INT, AT(peft.dim), "8", 1, 1 << 20, false, false, NULL, NULL,
      "rank of the adapters" },
    { "peft", "alpha", FM_KEY_NUMBER, AT(peft.alpha), "32", ABOVE(0), NULL, NULL,
      "scale: alpha / dim" },
    { "peft", "dropout", FM_KEY_NUMBER, AT(peft.dropout), "0", BELOW(0, 1), NULL, NULL,
      "on the adapters' input" },
    { "peft", "target_modules", FM_KEY_TEXT, AT(peft.target_modules), "*_proj", NO_LIMITS, NULL, NULL,
      "patterns, comma separated" },

    { "validation", "every", FM_KEY_INT64, AT(validation.every), "0", COUNT(0), NULL, NULL,
      "steps; 0: at the end if there is a file" },

    { "checkpoint", "every", FM_KEY_INT64, AT(checkpoint.every), "0", COUNT(0), NULL, NULL,
      "steps; 0: none but on a signal" },
    { "checkpoint", "keep", FM_KEY_INT64, AT(checkpoint.keep), "2", COUNT(1), NULL, NULL,
      "complete checkpoints kept" },
    { "checkpoint", "resume", FM_KEY_PATH, AT(checkpoint.resume), "auto", NO_LIMITS, resumes, NULL,
      "auto, no, or a checkpoint directory" },
    { "checkpoint", "allow_changes", FM_KEY_BOOL, AT(checkpoint.allow_changes), "no", NO_LIMITS, NULL, NULL,
      "yes: go on although model, data, tokenizer, batch or seed are others" },
    { "checkpoint", "export", FM_KEY_CHOICE, AT(checkpoint.export_when), "final", NO_LIMITS, exports, NULL,
      "HF directory: final at the end, every also beside each checkpoint" },

    { "log", "every", FM_KEY_INT64, AT(log.every), "1", COUNT(1), NULL, NULL,
      "steps between lines" },
    { "log", "traffic", FM_KEY_BOOL, AT(log.traffic), "no", NO_LIMITS, NULL, NULL,
      "a table of calls and bytes of each group of ranks, at the end" },
    { "log", "gradients", FM_KEY_PATH, AT(log.gradients), "", NO_LIMITS, NULL, NULL,
      "directory for the gradients of the first step" },
    { "log", "ranks", FM_KEY_BOOL, AT(log.ranks), "no", NO_LIMITS, NULL, NULL,
      "slowest and fastest rank of each step" },

    { "device", "type", FM_KEY_CHOICE, AT(device.type), "auto", NO_LIMITS, devices, NULL,
      "where the arithmetic runs" },
    { "device", "threads", FM_KEY_INT, AT(device.threads), "0", 0, 4096, false, false, NULL, NULL,
      "OpenMP threads a rank; 0: cores / ranks of the node" },
};

enum { KEYS = sizeof table / sizeof table[0] };

int fm_key_count(void)
{
    return KEYS;
}

const fm_key *fm_key_get(int index)
{
    return &table[index];
}

int fm_key_find(const char *section, const char *name)
{
    for (int i = 0; i < KEYS; i++) {
        if (strcasecmp(table[i].section, section) == 0 && strcasecmp(table[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

bool fm_key_has_section(const char *section)
{
    for (int i = 0; i < KEYS; i++) {
        if (strcasecmp(table[i].section, section) == 0) {
            return true;
        }
    }
    return false;
}

int fm_key_nearest(const char *section, const char *name)
{
    int best = 0, best_distance = INT_MAX;
    for (int i = 0; i < KEYS; i++) {
        /* a right name in a wrong section is one mistake, however different the sections' names are */
        const int apart = fm_edit_distance(section, table[i].section);
        const int distance = 2 * fm_edit_distance(name, table[i].name) + (apart < 2 ? apart : 2);
        if (distance < best_distance) {
            best = i;
            best_distance = distance;
        }
    }
    return best;
}

const char *fm_key_nearest_section(const char *section)
{
    int best = 0;
    for (int i = 1; i < KEYS; i++) {
        if (fm_edit_distance(section, table[i].section) < fm_edit_distance(section, table[best].section)) {
            best = i;
        }
    }
    return table[best].section;
}

char **fm_key_string(fm_job *job, const fm_key *key)
{
    return (char **)((char *)job + key->offset);
}

static bool parse_bool(bool *out, const char *value)
{
    static const fm_choice words[] = { { "yes", 1 }, { "true", 1 }, { "on", 1 }, { "1", 1 },
                                       { "no", 0 }, { "false", 0 }, { "off", 0 }, { "0", 0 } };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcasecmp(value, words[i].word) == 0) {
            *out = words[i].value != 0;
            return true;
        }
    }
    return false;
}

static bool within(const fm_key *key, double value)
{
    return (key->above_low ? value > key->low : value >= key->low) && (key->below_high ? value < key->high : value <= key->high);
}

static bool parse_integer(int64_t *out, const fm_key *key, const char *value)
{
    char *end;
    errno = 0;
    const long long number = strtoll(value, &end, 10);
    if (errno != 0 || end == value || *end != '\0' || !within(key, (double)number)) {
        return false;
    }
    *out = number;
    return true;
}

static bool parse_number(double *out, const fm_key *key, const char *value)
{
    char *end;
    const double number = strtod(value, &end);
    if (end == value || *end != '\0' || !isfinite(number) || !within(key, number)) {
        return false;
    }
    *out = number;
    return true;
}

static bool parse_choice(int *out, const fm_key *key, const char *value)
{
    for (const fm_choice *choice = key->choices; choice->word != NULL; choice++) {
        if (strcasecmp(value, choice->word) == 0) {
            *out = choice->value;
            return true;
        }
    }
    return false;
}

static int set_string(fm_job *job, const fm_key *key, const char *value)
{
    char *copy = fm_strdup(value);
    if (copy == NULL) {
        return FM_ERR_MEMORY;
    }
    fm_free(*fm_key_string(job, key));
    *fm_key_string(job, key) = copy;
    return FM_OK;
}

/* The value into its place; false where it is not what the key takes. */
static bool parse_scalar(fm_job *job, const fm_key *key, const char *value)
{
    void *const place = (char *)job + key->offset;
    const bool absent = value[0] == '\0';             /* no value and no default: 0 */
    int64_t integer = 0;
    int word = 0;
    switch (key->type) {
    case FM_KEY_BOOL:
        return parse_bool(place, value);
    case FM_KEY_INT:
        if (!absent && !parse_integer(&integer, key, value)) {
            return false;
        }
        *(int *)place = (int)integer;                 /* every INT has limits within int */
        return true;
    case FM_KEY_INT64:
        if (!absent && !parse_integer(&integer, key, value)) {
            return false;
        }
        *(int64_t *)place = integer;
        return true;
    case FM_KEY_NUMBER:
        return parse_number(place, key, value);
    default:
        if (!parse_choice(&word, key, value)) {
            return false;
        }
        memcpy(place, &word, sizeof word);            /* an enum has the size of an int */
        return true;
    }
}

int fm_key_parse(fm_job *job, const fm_key *key, const char *value, fm_text *expected)
{
    const char *const chosen = value[0] != '\0' ? value : key->fallback;
    const bool is_empty_list = key->type == FM_KEY_PATHS && value[0] != '\0' && value[strspn(value, ", \t")] == '\0';
    if (!is_empty_list && (key->type == FM_KEY_TEXT || key->type == FM_KEY_PATH || key->type == FM_KEY_PATHS)) {
        return set_string(job, key, chosen);
    }
    if (!is_empty_list && parse_scalar(job, key, chosen)) {
        return FM_OK;
    }
    fm_key_print_expected(expected, key);
    return FM_ERR_JOB;
}

void fm_key_print(fm_text *out, const fm_job *job, const fm_key *key)
{
    const void *const place = (const char *)job + key->offset;
    const bool no_default = key->fallback[0] == '\0';
    char number[FM_DOUBLE_BYTES];
    int word;
    int64_t integer;
    switch (key->type) {
    case FM_KEY_BOOL:
        fm_text_add(out, "%s", *(const bool *)place ? "yes" : "no");
        break;
    case FM_KEY_INT:
    case FM_KEY_INT64:
        integer = key->type == FM_KEY_INT ? *(const int *)place : *(const int64_t *)place;
        if (integer != 0 || !no_default) {
            fm_text_add(out, "%lld", (long long)integer);
        }
        break;
    case FM_KEY_NUMBER:
        fm_double_print(number, *(const double *)place);
        fm_text_add(out, "%s", number);
        break;
    case FM_KEY_CHOICE:
        memcpy(&word, place, sizeof word);
        for (const fm_choice *choice = key->choices; choice->word != NULL; choice++) {
            if (choice->value == word) {
                fm_text_add(out, "%s", choice->word);
            }
        }
        break;
    default:
        fm_text_add(out, "%s", *(char *const *)place);
    }
}

/* Whether `word` is one of the blank-separated words of `list`. */
static bool is_listed(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (const char *start = list; *start != '\0'; start += strspn(start, " ")) {
        const size_t n = strcspn(start, " ");
        if (n == length && strncasecmp(start, word, n) == 0) {
            return true;
        }
        start += n;
    }
    return false;
}

bool fm_key_is_available(const fm_key *key, const char *value)
{
    return key->available == NULL || value[0] == '\0' || is_listed(key->available, value);
}

static void print_limits(fm_text *out, const fm_key *key)
{
    fm_text_add(out, key->above_low ? " above %.15g" : " from %.15g", key->low);
    if (isfinite(key->high)) {
        fm_text_add(out, key->below_high ? " to below %.15g" : " to %.15g", key->high);
    } else if (!key->above_low) {
        fm_text_add(out, " on");
    }
}

void fm_key_print_expected(fm_text *out, const fm_key *key)
{
    switch (key->type) {
    case FM_KEY_BOOL:
        fm_text_add(out, "yes or no");
        break;
    case FM_KEY_INT:
    case FM_KEY_INT64:
        fm_text_add(out, "an integer");
        print_limits(out, key);
        break;
    case FM_KEY_NUMBER:
        fm_text_add(out, "a number");
        print_limits(out, key);
        break;
    case FM_KEY_CHOICE:
        for (const fm_choice *choice = key->choices; choice->word != NULL; choice++) {
            fm_text_add(out, "%s%s", choice == key->choices ? "" : choice[1].word == NULL ? " or " : ", ", choice->word);
        }
        break;
    case FM_KEY_TEXT:
        fm_text_add(out, "a text");
        break;
    case FM_KEY_PATH:
        fm_text_add(out, "a path");
        break;
    case FM_KEY_PATHS:
        fm_text_add(out, "a list of paths");
        break;
    }
}

void fm_keys_print_help(void)
{
    fm_log_print("# Keys of a job file. Each can be given after the file too, as section.key=value; "
                 "an empty value is the default.\n");
    const char *section = "";
    for (int i = 0; i < KEYS; i++) {
        const fm_key *const key = &table[i];
        if (strcmp(section, key->section) != 0) {
            section = key->section;
            fm_log_print("\n[%s]\n# %-24s %-12s %-44s %s\n", section, "key", "default", "takes", "meaning");
        }
        fm_text takes = { 0 };
        fm_key_print_expected(&takes, key);
        const char *const fallback = key->fallback[0] != '\0' ? key->fallback : "-";
        fm_log_print("  %-24s %-12s %-44s %s", key->name, fallback, fm_text_get(&takes), key->help);
        if (key->available != NULL) {
            fm_log_print("; now only: %s", key->available[0] != '\0' ? key->available : "-");
        }
        fm_log_print("\n");
        fm_text_clear(&takes);
    }
}
