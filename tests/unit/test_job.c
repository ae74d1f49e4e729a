/* The job: every key of the table, every kind of mistake, the effective job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "job/effective.h"
#include "job/job.h"
#include "job/keys.h"

static const char minimal[] = "[model]\npath = /m\n[data]\ntrain = /d.jsonl\n[train]\nsteps = 10\n";

/* The job of a text, which must be right. */
static void load(fm_job *job, const char *text, const char *override)
{
    const int rc = fm_job_load(job, text, strlen(text), "dir/fine.ini", &override, override != NULL ? 1 : 0, 1);
    if (rc != FM_OK) {
        fail_msg("%s: %s", override != NULL ? override : text, fm_error_message());
    }
}

/* The message of a job that must be wrong. */
static const char *refusal(const char *text, const char *const *overrides, int n, int n_ranks)
{
    fm_job job;
    if (fm_job_load(&job, text, strlen(text), "fine.ini", overrides, n, n_ranks) != FM_ERR_JOB) {
        fail_msg("not refused: %s %s", text, n > 0 ? overrides[0] : "");
    }
    assert_null(job.states);
    return fm_error_message();
}

static void check_refused(const char *override, int n_ranks, const char *expected)
{
    const char *const message = refusal(minimal, &override, 1, n_ranks);
    if (strstr(message, expected) == NULL) {
        fail_msg("%s: '%s' is not in: %s", override, expected, message);
    }
}

static void defaults_are_those_of_the_contract(void **state)
{
    fm_job job;
    load(&job, minimal, NULL);
    assert_string_equal(job.name, "fine");
    char path[FM_PATH_BYTES], start_dir[FM_PATH_BYTES];
    assert_non_null(getcwd(start_dir, sizeof start_dir));
    assert_int_equal(fm_path_join(path, start_dir, "runs/fine"), FM_OK);
    assert_string_equal(job.output_dir, path);
    assert_int_equal(job.seed, 42);
    assert_false(job.deterministic || job.overwrite || job.data.packing);
    assert_true(job.data.shuffle && job.data.mask_prompt);
    assert_int_equal(job.model.dtype, FM_DTYPE_AUTO);
    assert_int_equal(job.distributed.sizes.tp_size, 1);
    assert_int_equal(job.distributed.sizes.dp_size, 0);
    assert_false(job.distributed.has_mesh);
    assert_int_equal(job.distributed.reduce_dtype, FM_F32);
    assert_int_equal(job.pipeline.schedule, FM_PIPELINE_1F1B);
    assert_string_equal(job.data.context_column, "context");
    assert_int_equal(job.data.seq_length, 1024);
    assert_int_equal(job.batch.global_batch_size, 8);
    assert_int_equal(job.batch.local_batch_size, 1);
    assert_true(job.optimizer.lr == 1e-5 && job.optimizer.beta1 == 0.9 && job.optimizer.beta2 == 0.999);
    assert_true(job.optimizer.eps == 1e-8 && job.optimizer.weight_decay == 0.01 && job.optimizer.clip_grad_norm == 1);
    assert_int_equal(job.schedule.name, FM_SCHEDULE_COSINE);
    assert_int_equal(job.peft.dim, 8);
    assert_true(job.peft.alpha == 32 && job.peft.dropout == 0);
    assert_string_equal(job.peft.target_modules, "*_proj");
    assert_int_equal(job.checkpoint.keep, 2);
    assert_string_equal(job.checkpoint.resume, "auto");
    assert_int_equal(job.checkpoint.export_when, FM_EXPORT_FINAL);
    assert_int_equal(job.log.every, 1);
    fm_job_clear(&job);
}

static void overrides_come_last_and_the_last_wins(void **state)
{
    const char *const overrides[] = { "train.steps=20", "OPTIMIZER.LR = 0.5 ", "train.steps=30", "job.name=",
                                      "data.train=x#y.jsonl" };
    fm_job job;
    assert_int_equal(fm_job_load(&job, minimal, strlen(minimal), "f.ini", overrides, 5, 1), FM_OK);
    assert_int_equal(job.train.steps, 30);
    assert_true(job.optimizer.lr == 0.5);
    assert_string_equal(job.name, "f");
    assert_non_null(strstr(job.data.train, "/x#y.jsonl"));
    fm_job_clear(&job);
    const char *const instead[] = { "train.steps=", "train.epochs=2" };      /* an empty value takes the file's away */
    assert_int_equal(fm_job_load(&job, minimal, strlen(minimal), "f.ini", instead, 2, 1), FM_OK);
    assert_int_equal(job.train.steps, 0);
    assert_int_equal(job.train.epochs, 2);
    fm_job_clear(&job);
}

static void words_of_bools_and_choices(void **state)
{
    static const struct {
        const char *override;
        bool value;
    } words[] = { { "job.overwrite=yes", true }, { "job.overwrite=TRUE", true }, { "job.overwrite=on", true },
                  { "job.overwrite=1", true }, { "job.overwrite=no", false }, { "job.overwrite=False", false },
                  { "job.overwrite=off", false }, { "job.overwrite=0", false } };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        fm_job job;
        load(&job, minimal, words[i].override);
        assert_int_equal(job.overwrite, words[i].value);
        fm_job_clear(&job);
    }
    fm_job job;
    load(&job, minimal, "schedule.name=WSD");
    assert_int_equal(job.schedule.name, FM_SCHEDULE_WSD);
    fm_job_clear(&job);
    load(&job, minimal, "distributed.sequence_parallel=off");     /* the default in other words */
    fm_job_clear(&job);
}

static void paths_become_absolute(void **state)
{
    char start_dir[FM_PATH_BYTES], expected[3 * FM_PATH_BYTES];
    assert_non_null(getcwd(start_dir, sizeof start_dir));
    fm_job job;
    load(&job, minimal, "data.train=./a/*.jsonl , /b.jsonl,c.jsonl");
    snprintf(expected, sizeof expected, "%s/a/*.jsonl,/b.jsonl,%s/c.jsonl", start_dir, start_dir);
    assert_string_equal(job.data.train, expected);
    assert_string_equal(job.data.validation, "");
    assert_string_equal(job.model.path, "/m");
    fm_job_clear(&job);
    load(&job, minimal, "checkpoint.resume=NO");
    assert_string_equal(job.checkpoint.resume, "no");
    fm_job_clear(&job);
}

/* A wrong value for a key, made from what the table says of it. */
static void check_outside(const fm_key *key, const char *value)
{
    char override[256], line[256];
    snprintf(override, sizeof override, "%s.%s=%s", key->section, key->name, value);
    snprintf(line, sizeof line, "command line: [%s] %s = %s: ", key->section, key->name, value);
    check_refused(override, 1, line);
    check_refused(override, 1, " was expected");
}

static void every_key_refuses_what_it_does_not_take(void **state)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        const bool is_integer = key->type == FM_KEY_INT || key->type == FM_KEY_INT64;
        if (key->type == FM_KEY_TEXT || key->type == FM_KEY_PATH || key->type == FM_KEY_PATHS) {
            continue;
        }
        check_outside(key, "banana");
        check_outside(key, "1 2");
        if (is_integer) {
            char value[64];
            check_outside(key, "1.5");
            check_outside(key, "1e3");
            check_outside(key, "99999999999999999999");
            snprintf(value, sizeof value, "%.0f", key->low - 1);
            check_outside(key, value);
        }
        if (key->type == FM_KEY_NUMBER) {
            check_outside(key, "-1");
            check_outside(key, "nan");
            check_outside(key, "inf");
            check_outside(key, "1e999");
        }
    }
    check_outside(fm_key_get(fm_key_find("optimizer", "beta1")), "1");
    check_outside(fm_key_get(fm_key_find("peft", "alpha")), "0");
    check_outside(fm_key_get(fm_key_find("distributed", "tp_size")), "1048577");
}

static void features_to_come_are_refused_by_name(void **state)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        for (const fm_choice *choice = key->choices; key->available != NULL && choice != NULL && choice->word != NULL; choice++) {
            char override[256];
            fm_job job;
            snprintf(override, sizeof override, "%s.%s=%s", key->section, key->name, choice->word);
            if (fm_key_is_available(key, choice->word)) {
                load(&job, minimal, override);
                fm_job_clear(&job);
            } else {
                check_refused(override, 1, "not available in this version");
            }
        }
        if (key->available != NULL) {                /* the default always works */
            assert_true(fm_key_is_available(key, key->fallback));
        }
    }
}

static void mistakes_are_told_together_with_their_places(void **state)
{
    static const char text[] =
        "[model]\n"
        "path = /m\n"
        "[trian]\n"
        "steps = 10\n"
        "[train]\n"
        "lr = 3\n"
        "epoch = 1\n"
        "epochs = many\n"
        "epochs = 2\n"
        "[optimizer]\n"
        "beta1 = 2\n"
        "clip_grad_norm\n";
    const char *const overrides[] = { "optimizer.betta2=0.5", "nonsense", "data.seq_length=1" };
    const char *const message = refusal(text, overrides, 3, 1);
    assert_string_equal(message,
        "fine.ini: 12 errors\n"
        "fine.ini:9: [train] epochs: the key stands in line 8 already; one of the two must go\n"
        "fine.ini:12: a key without '=': key = value was expected\n"
        "fine.ini:3: [trian]: unknown section; the nearest known one is [train]\n"
        "fine.ini:4: [trian] steps = 10: unknown key; the nearest known key is [train] steps\n"
        "fine.ini:6: [train] lr = 3: unknown key; the nearest known key is [optimizer] lr\n"
        "fine.ini:7: [train] epoch = 1: unknown key; the nearest known key is [train] epochs\n"
        "fine.ini:8: [train] epochs = many: an integer from 1 to 1000000000 was expected\n"
        "fine.ini:11: [optimizer] beta1 = 2: a number from 0 to below 1 was expected\n"
        "command line: [optimizer] betta2 = 0.5: unknown key; the nearest known key is [optimizer] beta2\n"
        "command line: 'nonsense': section.key=value was expected\n"
        "command line: [data] seq_length = 1: an integer from 2 to 1073741824 was expected\n"
        "fine.ini: [data] train: required: JSONL files, comma separated, were expected");
}

static void what_is_required_is_asked_for(void **state)
{
    const char *const message = refusal("", NULL, 0, 1);
    assert_string_equal(message,
        "fine.ini: 3 errors\n"
        "fine.ini: [model] path: required: a directory with config.json and *.safetensors was expected\n"
        "fine.ini: [data] train: required: JSONL files, comma separated, were expected\n"
        "fine.ini: [train] steps: required: steps or epochs was expected");
    fm_job job;
    assert_int_equal(fm_job_parse(&job, "", 0, "fine.ini", NULL, 0), FM_OK);      /* enough for other subcommands */
    assert_int_equal(fm_job_validate(&job, 1), FM_ERR_JOB);
    fm_job_clear(&job);
}

static void contradictions_are_refused(void **state)
{
    check_refused("train.epochs=3", 1, "give one of the two");
    check_refused("schedule.min_lr=1", 1, "at most [optimizer] lr");
    check_refused("schedule.warmup_steps=10", 1, "fewer than the 10 steps");
    check_refused("job.name=a/b", 1, "a directory's");
    check_refused("job.name=a\nb", 1, "control characters");
    check_refused("distributed.tp_size=3", 2, "fine.ini: [distributed]: ");
    check_refused("batch.global_batch_size=10", 4, "dp x local_batch_size = 4 x 1 = 4 was expected; the nearest: 8 or 12");
    check_refused("batch.local_batch_size=9", 1, "the nearest: 9");
    check_refused("device_mesh.tp=2", 3, "fine.ini: [device_mesh]: ");
    const char *const both[] = { "device_mesh.tp=2", "distributed.tp_size=2" };
    assert_non_null(strstr(refusal(minimal, both, 2, 2), "[device_mesh] is written too"));
    const char *const slow[] = { "schedule.name=wsd", "schedule.decay_steps=11" };
    assert_non_null(strstr(refusal(minimal, slow, 2, 1), "[schedule] decay_steps = 11: at most the 10 steps"));
    char long_path[FM_PATH_BYTES];
    memset(long_path, 'x', sizeof long_path);
    memcpy(long_path, "data.train=", 11);
    long_path[1100] = '\0';
    check_refused(long_path, 1, "at most 1023 bytes");
    long_path[1000] = '\0';                          /* fits, but not with the start directory and more before it */
    memcpy(long_path, "data.train=a,b,c,d,e,f,g,h,", 27);
    check_refused(long_path, 1, "fits into a line");
}

static void meshes_come_from_sizes_or_are_written(void **state)
{
    const char *const sizes[] = { "distributed.tp_size=2", "distributed.dp_replicate_size=2" };
    fm_job job;
    fm_mesh_shape mesh;
    assert_int_equal(fm_job_load(&job, minimal, strlen(minimal), "f.ini", sizes, 2, 8), FM_OK);
    assert_int_equal(fm_job_mesh(&mesh, &job, 8), FM_OK);
    assert_int_equal(mesh.size[FM_TP], 2);
    assert_int_equal(mesh.size[FM_DP_REPLICATE], 2);
    assert_int_equal(mesh.size[FM_DP_SHARD], 2);
    fm_job_clear(&job);
    const char *const written[] = { "device_mesh.tp=4", "device_mesh.dp_shard=2" };
    assert_int_equal(fm_job_load(&job, minimal, strlen(minimal), "f.ini", written, 2, 8), FM_OK);
    assert_true(job.distributed.has_mesh);
    assert_int_equal(fm_job_mesh(&mesh, &job, 8), FM_OK);
    assert_int_equal(mesh.size[FM_TP], 4);
    assert_int_equal(mesh.size[FM_DP_SHARD], 2);
    assert_int_equal(mesh.size[FM_PP], 1);
    fm_job_clear(&job);
}

/* Writes the job, reads it back under another name, writes it again: nothing changes. */
static void check_round_trip(const char *const *overrides, int n, int n_ranks)
{
    fm_job job, again;
    char *text, *text_again;
    size_t size_bytes, again_bytes;
    assert_int_equal(fm_job_load(&job, minimal, strlen(minimal), "fine.ini", overrides, n, n_ranks), FM_OK);
    assert_int_equal(fm_job_write(&text, &size_bytes, &job), FM_OK);
    if (fm_job_load(&again, text, size_bytes, "job.ini", NULL, 0, n_ranks) != FM_OK) {
        fail_msg("%s\n%s", fm_error_message(), text);
    }
    assert_int_equal(fm_job_write(&text_again, &again_bytes, &again), FM_OK);
    assert_string_equal(text, text_again);
    assert_string_equal(again.name, job.name);
    assert_true(again.optimizer.lr == job.optimizer.lr);
    assert_int_equal(again.distributed.has_mesh, job.distributed.has_mesh);
    fm_free(text);
    fm_free(text_again);
    fm_job_clear(&job);
    fm_job_clear(&again);
}

static void the_effective_job_is_the_same_job(void **state)
{
    check_round_trip(NULL, 0, 1);
    const char *const odd[] = { "job.name= a # b; 'c'", "optimizer.lr=0.30000000000000004", "data.train=it's,x;y",
                                "schedule.decay_steps=3", "train.steps=", "train.epochs=3", "data.answer_column=\"", "job.seed=9223372036854775807",
                                "distributed.tp_size=2" };
    check_round_trip(odd, 9, 2);
    const char *const mesh[] = { "device_mesh.tp=2", "checkpoint.resume=no", "optimizer.state_dtype=bfloat16" };
    check_round_trip(mesh, 3, 2);
}

static void remarks_are_comments_of_the_effective_job(void **state)
{
    fm_job job, again;
    char *text;
    size_t size_bytes;
    load(&job, minimal, NULL);
    assert_int_equal(fm_job_note(&job, "distributed", "dp_size", "became %d", 4), FM_OK);
    assert_int_equal(fm_job_note(&job, "model", "path", "config.json crc32 01234567"), FM_OK);
    assert_int_equal(fm_job_note(&job, "model", "path", "ends in \\"), FM_OK);
    assert_int_equal(fm_job_write(&text, &size_bytes, &job), FM_OK);
    assert_non_null(strstr(text, "\n# became 4\ndp_size = 0\n"));
    assert_non_null(strstr(text, "\n# config.json crc32 01234567\n# ends in \\.\npath = /m\n"));
    assert_int_equal(fm_job_load(&again, text, size_bytes, "job.ini", NULL, 0, 1), FM_OK);
    fm_free(text);
    fm_job_clear(&again);
    fm_job_clear(&job);
}

static void the_table_is_in_order(void **state)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        assert_int_equal(fm_key_find(key->section, key->name), i);       /* no key stands twice */
        assert_int_equal(fm_key_nearest(key->section, key->name), i);
        assert_true(key->type != FM_KEY_CHOICE || key->choices != NULL);
        assert_true(key->type != FM_KEY_INT || key->high <= INT32_MAX);
        /* a section's keys stand together, no place is used twice */
        for (int j = i + 1; j < fm_key_count(); j++) {
            assert_true(fm_key_get(j)->offset != key->offset);
            if (j > i + 1 && strcmp(fm_key_get(j)->section, key->section) == 0) {
                assert_string_equal(fm_key_get(j - 1)->section, key->section);
            }
        }
    }
}

static void failing_memory_is_told(void **state)
{
    int n_failed = 0;
    for (int n = 1; n < 200; n++) {
        fm_job job;
        fm_memory_fail_at(n);
        const int rc = fm_job_load(&job, minimal, strlen(minimal), "fine.ini", NULL, 0, 1);
        fm_memory_fail_at(0);
        assert_true(rc == FM_ERR_MEMORY || rc == FM_OK);
        n_failed += rc == FM_ERR_MEMORY;
        if (rc == FM_OK) {
            fm_job_clear(&job);
        }
        assert_int_equal(fm_memory_used_bytes(FM_MEMORY_HOST), 0);
    }
    assert_true(n_failed > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_contract),
        cmocka_unit_test(overrides_come_last_and_the_last_wins),
        cmocka_unit_test(words_of_bools_and_choices),
        cmocka_unit_test(paths_become_absolute),
        cmocka_unit_test(every_key_refuses_what_it_does_not_take),
        cmocka_unit_test(features_to_come_are_refused_by_name),
        cmocka_unit_test(mistakes_are_told_together_with_their_places),
        cmocka_unit_test(what_is_required_is_asked_for),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(meshes_come_from_sizes_or_are_written),
        cmocka_unit_test(the_effective_job_is_the_same_job),
        cmocka_unit_test(remarks_are_comments_of_the_effective_job),
        cmocka_unit_test(the_table_is_in_order),
        cmocka_unit_test(failing_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
