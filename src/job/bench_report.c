#include "config.h"

#include "job/bench_report.h"

#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

enum { MOST_NAME = 64 };

static double tokens_per_s(const fm_bench_report *r, double step_s)
{
    return (double)r->result->tokens / step_s;
}

/* "222.4 GFLOP/s", "712.0 TFLOP/s" */
static const char *print_rate(char out[MOST_NAME], double per_s, const char *unit)
{
    const bool is_large = per_s >= 1e13;
    snprintf(out, MOST_NAME, "%.1f %c%s/s", per_s * (is_large ? 1e-12 : 1e-9), is_large ? 'T' : 'G', unit);
    return out;
}

static void print_speed(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    char rate[MOST_NAME], square[MOST_NAME];
    fm_log_print("tokens/s             %12.1f   median of %lld steps; %.1f to %.1f\n", tokens_per_s(r, b->step_s),
                 (long long)b->options.steps, tokens_per_s(r, b->most_step_s), tokens_per_s(r, b->least_step_s));
    fm_log_print("causal MFU           %11.1f%%   of %s, with %.6g FLOPs a token\n", 100.0 * fm_bench_mfu(b, r->flops_per_token),
                 print_rate(rate, b->gemm_flops_per_s, "FLOP"), r->flops_per_token);
    fm_log_print("square product                      %s, side %lld\n", print_rate(square, b->square_flops_per_s, "FLOP"),
                 (long long)b->square_side);
    fm_log_print("start to first step  %12.2f s\n", r->startup_s);
}

static void print_split(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    char rate[MOST_NAME];
    fm_log_print("\n# %-18s %12s %8s %14s\n", "part of a step", "ms", "share", "most of a rank");
    for (int p = 0; p < FM_BENCH_PARTS; p++) {
        fm_log_print("%-20s %12.3f %7.1f%% %14.3f", fm_bench_part_name((enum fm_bench_part)p), 1e3 * b->part_s[p],
                     100.0 * b->part_s[p] / b->split_step_s, 1e3 * b->most_part_s[p]);
        fm_log_print(p == FM_BENCH_GEMM ? "   %s\n" : "\n", print_rate(rate, b->step_gemm_flops_per_s, "FLOP"));
    }
    fm_log_print("%-20s %12.3f          without timing its parts %.3f\n", "step", 1e3 * b->split_step_s, 1e3 * b->step_s);
}

static void print_operations(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    char rate[MOST_NAME];
    fm_log_print("\n# %-24s %8s %12s %14s   of a copy's %s\n", "operation, rank 0", "calls", "ms", "", print_rate(rate,
                 b->copy_bytes_per_s / r->ranks, "B"));
    for (int i = 0; i < b->n_ops; i++) {
        const fm_op_cost *const op = &b->ops[i];
        fm_log_print("%-26s %8lld %12.3f", op->name, (long long)op->calls, 1e3 * op->seconds);
        if (op->bytes > 0.0 && op->seconds > 0.0) {
            fm_log_print(" %14s %7.1f%%", print_rate(rate, op->bytes / op->seconds, "B"),
                         100.0 * op->bytes / op->seconds / (b->copy_bytes_per_s / r->ranks));
        }
        fm_log_print("\n");
    }
}

static const char *print_product(char out[MOST_NAME], const fm_gemm_args *g)
{
    snprintf(out, MOST_NAME, "%s%s %lld x %lld x %lld %s%s", g->trans_a ? "T" : "N", g->trans_b ? "T" : "N", (long long)g->m,
             (long long)g->n, (long long)g->k, fm_dtype_name(g->out), g->accumulate ? " +=" : "");
    return out;
}

static void print_gemms(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    fm_log_print("\n# %-42s %8s %12s %14s   of the same alone\n", "product m x n x k, rank 0", "calls", "ms", "");
    for (int i = 0; i < b->n_gemms; i++) {
        const fm_gemm_cost *const g = &b->gemms[i].cost;
        char name[MOST_NAME], rate[MOST_NAME];
        if (b->gemms[i].best_flops_per_s > 0.0 && g->seconds > 0.0) {
            const double flops_per_s = (double)g->calls * fm_gemm_flops(&g->args) / g->seconds;
            fm_log_print("%-44s %8lld %12.3f %16s %6.1f%%\n", print_product(name, &g->args), (long long)g->calls, 1e3 * g->seconds,
                         print_rate(rate, flops_per_s, "FLOP"), 100.0 * flops_per_s / b->gemms[i].best_flops_per_s);
        }
    }
}

static int64_t model_peak_bytes(const fm_bench_result *b)
{
    int64_t sum = 0;
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        sum += k == FM_MEMORY_CHECKPOINT || k == FM_MEMORY_HOST ? 0 : b->peak_bytes[k];
    }
    return sum;
}

static void print_memory(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    fm_log_print("\n# memory of the largest rank, MiB\n");
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        if (b->peak_bytes[k] > 0) {
            fm_log_print("%-20s %12.1f\n", fm_memory_name((enum fm_memory)k), (double)b->peak_bytes[k] / (1 << 20));
        }
    }
    fm_log_print("%-20s %12.1f   estimated %.1f\n", "of the model", (double)model_peak_bytes(b) / (1 << 20),
                 (double)r->estimate_bytes / (1 << 20));
    fm_log_print("%-20s %12.1f   of the process, at its peak\n", "host memory", (double)b->host_bytes / (1 << 20));
}

void fm_bench_report_print(const fm_bench_report *r)
{
    print_speed(r);
    if (r->result->options.split_steps > 0) {
        print_split(r);
        print_operations(r);
        print_gemms(r);
    }
    print_memory(r);
}

/* ---- JSON ---- */

static json_t *parts_object(const double part_s[FM_BENCH_PARTS])
{
    json_t *const object = json_object();
    for (int p = 0; p < FM_BENCH_PARTS; p++) {
        json_object_set_new(object, fm_bench_part_key((enum fm_bench_part)p), json_real(1e3 * part_s[p]));
    }
    return object;
}

static json_t *operations_array(const fm_bench_result *b)
{
    json_t *const array = json_array();
    for (int i = 0; i < b->n_ops; i++) {
        const fm_op_cost *const op = &b->ops[i];
        json_array_append_new(array, json_pack("{s:s, s:I, s:f, s:f}", "name", op->name, "calls", (json_int_t)op->calls, "ms",
                                               1e3 * op->seconds, "bytes", op->bytes));
    }
    return array;
}

static json_t *gemms_array(const fm_bench_result *b)
{
    json_t *const array = json_array();
    for (int i = 0; i < b->n_gemms; i++) {
        const fm_bench_gemm *const g = &b->gemms[i];
        char name[MOST_NAME];
        json_array_append_new(array, json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f}", "name", print_product(name, &g->cost.args),
                                               "m", (json_int_t)g->cost.args.m, "n", (json_int_t)g->cost.args.n, "k",
                                               (json_int_t)g->cost.args.k, "calls", (json_int_t)g->cost.calls, "ms",
                                               1e3 * g->cost.seconds, "best_flops_per_s", g->best_flops_per_s));
    }
    return array;
}

static json_t *memory_object(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    json_t *const object = json_pack("{s:I, s:I, s:I}", "peak_bytes", (json_int_t)model_peak_bytes(b), "estimate_bytes",
                                     (json_int_t)r->estimate_bytes, "host_bytes", (json_int_t)b->host_bytes);
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        json_object_set_new(object, fm_memory_name((enum fm_memory)k), json_integer((json_int_t)b->peak_bytes[k]));
    }
    return object;
}

static json_t *mesh_object(const fm_mesh_shape *mesh)
{
    json_t *const object = json_object();
    for (int d = 0; d < FM_DIMS; d++) {
        json_object_set_new(object, fm_dim_name((enum fm_dim)d), json_integer(mesh->size[d]));
    }
    return object;
}

static json_t *report_object(const fm_bench_report *r)
{
    const fm_bench_result *const b = r->result;
    const fm_job *const job = r->job;
    static const char *const recompute[] = { [FM_RECOMPUTE_NO] = "no", [FM_RECOMPUTE_FULL] = "full",
                                             [FM_RECOMPUTE_SELECTIVE] = "selective" };
    json_t *const object = json_pack(
        "{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:i, s:i, s:o, s:I, s:I, s:I, s:I, s:I, s:f}",
        "program", "finemesh " PACKAGE_VERSION, "device", r->device, "model_type", r->model_type,
        "parameters", (json_int_t)r->parameters, "dtype", fm_dtype_name(r->dtype), "master_dtype", fm_dtype_name(r->master_dtype),
        "state_dtype", fm_dtype_name(r->state_dtype), "activation_checkpointing", recompute[job->distributed.activation_checkpointing],
        "ranks", r->ranks, "threads", r->threads, "mesh", mesh_object(&r->mesh), "seq_length", (json_int_t)job->data.seq_length,
        "global_batch_size", (json_int_t)job->batch.global_batch_size, "local_batch_size", (json_int_t)job->batch.local_batch_size,
        "warmup", (json_int_t)b->options.warmup, "steps", (json_int_t)b->options.steps, "loss", b->loss);
    json_object_set_new(object, "tokens_per_s", json_real(tokens_per_s(r, b->step_s)));
    json_object_set_new(object, "tokens_per_s_least", json_real(tokens_per_s(r, b->most_step_s)));
    json_object_set_new(object, "tokens_per_s_most", json_real(tokens_per_s(r, b->least_step_s)));
    json_object_set_new(object, "step_ms", json_real(1e3 * b->step_s));
    json_object_set_new(object, "flops_per_token", json_real(r->flops_per_token));
    json_object_set_new(object, "gemm_flops_per_s", json_real(b->gemm_flops_per_s));
    json_object_set_new(object, "square_flops_per_s", json_real(b->square_flops_per_s));
    json_object_set_new(object, "copy_bytes_per_s", json_real(b->copy_bytes_per_s));
    json_object_set_new(object, "mfu", json_real(fm_bench_mfu(b, r->flops_per_token)));
    json_object_set_new(object, "startup_s", json_real(r->startup_s));
    json_object_set_new(object, "memory", memory_object(r));
    if (b->options.split_steps > 0) {
        json_object_set_new(object, "split_step_ms", json_real(1e3 * b->split_step_s));
        json_object_set_new(object, "split_ms", parts_object(b->part_s));
        json_object_set_new(object, "split_most_ms", parts_object(b->most_part_s));
        json_object_set_new(object, "step_gemm_flops_per_s", json_real(b->step_gemm_flops_per_s));
        json_object_set_new(object, "operations", operations_array(b));
        json_object_set_new(object, "gemms", gemms_array(b));
    }
    return object;
}

int fm_bench_report_write(const fm_bench_report *report, const char *path)
{
    json_t *const object = report_object(report);
    char *text = NULL;
    fm_text line = { 0 };
    int rc = fm_json_print(&text, NULL, object, 0);
    if (rc == FM_OK) {
        fm_text_add(&line, "%s\n", text);
        rc = line.failed ? FM_ERR_MEMORY : fm_file_replace(path, fm_text_get(&line), line.size_bytes);
    }
    fm_text_clear(&line);
    fm_free(text);
    json_decref(object);
    return rc;
}
