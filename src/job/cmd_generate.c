#include "job/cmd_generate.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "job/inputs.h"
#include "job/placing.h"
#include "train/forward.h"

enum { NEW_TOKENS = 32, MOST_NEW_TOKENS = 1 << 20 };

typedef struct {
    fm_placing placing;
    const char *prompt;
    int64_t new_tokens;
} arguments;

static int parse_arguments(arguments *a, int argc, char **argv)
{
    *a = (arguments){ .placing = fm_placing_default(), .new_tokens = NEW_TOKENS };
    for (int i = 0; i < argc; i++) {
        bool known = true;
        if (strcmp(argv[i], "--max-new-tokens") == 0) {
            char *end = NULL;
            a->new_tokens = i + 1 < argc ? strtol(argv[i + 1], &end, 10) : 0;
            a->new_tokens = end == NULL || *end != '\0' ? 0 : a->new_tokens;
            i++;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            FM_TRY(fm_placing_option(&a->placing, &known, &i, argc, argv));
        } else if (a->prompt != NULL) {
            return fm_fail(FM_ERR_JOB, "finemesh generate MODEL PROMPT: \"%s\" is one word too many; quote the prompt", argv[i]);
        } else {
            *(a->placing.model == NULL ? &a->placing.model : &a->prompt) = argv[i];
        }
        if (!known) {
            return fm_fail(FM_ERR_JOB, "finemesh generate knows no option %s; there are MODEL PROMPT, --max-new-tokens N, %s", argv[i],
                           fm_placing_list());
        }
    }
    if (a->prompt == NULL || a->new_tokens < 1 || a->new_tokens > MOST_NEW_TOKENS) {
        return fm_fail(FM_ERR_JOB, "finemesh generate MODEL PROMPT [--max-new-tokens N]: a prompt and 1 <= N <= %d were expected",
                       MOST_NEW_TOKENS);
    }
    return FM_OK;
}

/* Appends the likeliest word until the model ends its text. The whole row is run anew for each. */
static int continue_row(int32_t *ids, int64_t *n, int64_t most, fm_model *m, int32_t eos)
{
    fm_forward f = { .n = 0 };
    int rc = FM_OK;
    while (rc == FM_OK && *n < most) {
        int32_t word = 0;
        rc = fm_forward_run(&f, m, ids, *n);
        if (rc == FM_OK) {
            rc = fm_forward_next(&word, &f, m);
        }
        if (rc < 0 || word == eos || word == m->config.eos_token) {
            break;
        }
        ids[(*n)++] = word;
    }
    fm_forward_clear(&f);
    return rc;
}

static int print_text(const fm_tokenizer *tokenizer, const int32_t *ids, int64_t n)
{
    char *text;
    size_t size_bytes;
    FM_TRY(fm_tokenizer_decode(&text, &size_bytes, tokenizer, ids, n, true));
    fm_log_print("%s\n", text);
    fm_tokenizer_free(text);
    return FM_OK;
}

/* The prompt's ids, with room for the new ones: [*n + args->new_tokens]. Needs config.json and the tokenizer only: what cannot work is
 * said before the weights are read. */
static int read_prompt(int32_t **ids, int64_t *n, const fm_assembly *a, const fm_inputs *inputs, const arguments *args)
{
    int32_t *prompt = NULL;
    *ids = NULL;
    if (inputs->tokenizer == NULL) {
        return fm_fail(FM_ERR_JOB, "%s: there is no tokenizer.json in it", a->job.model.path);
    }
    FM_TRY(fm_tokenizer_encode(&prompt, n, inputs->tokenizer, args->prompt, strlen(args->prompt), true));
    const int64_t most = *n + args->new_tokens;
    int rc = *n == 0 ? fm_fail(FM_ERR_JOB, "the prompt has no tokens") : FM_OK;
    if (rc == FM_OK) {
        *ids = fm_alloc_array(most, sizeof **ids, FM_MEMORY_HOST);
        rc = *ids == NULL ? FM_ERR_MEMORY : FM_OK;
    }
    if (rc == FM_OK) {
        memcpy(*ids, prompt, (size_t)*n * sizeof **ids);
    }
    fm_tokenizer_free(prompt);
    if (rc == FM_OK && most > a->config.max_positions) {
        fm_log_warning("%lld tokens of the prompt and --max-new-tokens %lld are more than the %lld positions that the model was made for "
                       "(max_position_embeddings of its config.json): what it says beyond them may make no sense", (long long)*n,
                       (long long)args->new_tokens, (long long)a->config.max_positions);
    }
    return rc;
}

static int generate(fm_assembly *a, fm_inputs *inputs, const arguments *args, bool *started)
{
    int32_t *ids = NULL;
    int64_t n = 0;
    FM_TRY(fm_inputs_begin(inputs, a));
    int rc = fm_comm_agree(a->launch->world, read_prompt(&ids, &n, a, inputs, args));
    if (rc == FM_OK) {
        rc = fm_placing_load(a, n + args->new_tokens);
    }
    if (rc == FM_OK) {
        *started = true;
        rc = continue_row(ids, &n, n + args->new_tokens, a->model, fm_tokenizer_eos_id(inputs->tokenizer));
    }
    if (rc == FM_OK) {
        rc = print_text(inputs->tokenizer, ids, n);
    }
    fm_free(ids);
    return rc;
}

int fm_cmd_generate(const fm_launch *launch, int argc, char **argv, bool *started)
{
    fm_assembly a = { .launch = NULL };
    fm_inputs inputs = { .tokenizer = NULL };
    arguments args;
    int rc = parse_arguments(&args, argc, argv);
    if (rc == FM_OK) {
        rc = fm_placing_begin(&a, launch, &args.placing);
    }
    if (rc == FM_OK) {
        rc = generate(&a, &inputs, &args, started);
    }
    fm_inputs_end(&inputs);
    fm_assembly_clear(&a);
    return rc;
}
