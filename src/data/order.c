#include "data/order.h"

#include "base/random.h"

enum { FEISTEL_ROUNDS = 8 };

int fm_order_train(fm_order *out, int64_t n_samples, int64_t global_batch_size, uint64_t seed, bool shuffle)
{
    FM_ASSERT(global_batch_size >= 1);
    if (n_samples < global_batch_size) {
        return fm_fail(FM_ERR_JOB, "the training data has %lld samples, fewer than one batch: batch.global_batch_size is %lld; "
                       "use a global_batch_size of at most %lld or more data", (long long)n_samples, (long long)global_batch_size,
                       (long long)n_samples);
    }
    *out = (fm_order){
        .n_samples = n_samples, .global_batch_size = global_batch_size,
        .steps_per_epoch = n_samples / global_batch_size, .seed = seed, .shuffle = shuffle,
    };
    return FM_OK;
}

fm_order fm_order_pass(int64_t n_samples, int64_t global_batch_size)
{
    FM_ASSERT(n_samples >= 1 && global_batch_size >= 1);
    return (fm_order){
        .n_samples = n_samples, .global_batch_size = global_batch_size,
        .steps_per_epoch = n_samples / global_batch_size + (n_samples % global_batch_size != 0),
    };
}

/* A Feistel network over the smallest even number of bits that holds n, walked until the value falls below n: each network is
 * a permutation of its domain, and following it from inside [0, n) to the next value inside is one of [0, n). The domain is
 * below 4 n, so that fewer than four turns are expected. The round function is a word of Philox over (half, round, epoch). */
int64_t fm_order_permute(uint64_t seed, int64_t epoch, int64_t n, int64_t index)
{
    FM_ASSERT(index >= 0 && index < n);
    int half_bits = 1;
    while (half_bits < 31 && (int64_t)1 << (2 * half_bits) < n) {
        half_bits++;
    }
    const uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    const uint64_t stream = fm_random_stream("order") + (uint64_t)epoch;
    uint64_t value = (uint64_t)index;
    do {
        uint64_t left = value >> half_bits, right = value & mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint32_t bits[4];
            fm_random_bits(bits, seed, stream, round << 32 | right);
            const uint64_t mixed = left ^ (bits[0] & mask);
            left = right;
            right = mixed;
        }
        value = left << half_bits | right;
    } while (value >= (uint64_t)n);
    return (int64_t)value;
}

int64_t fm_order_sample(const fm_order *order, int64_t step, int64_t i)
{
    FM_ASSERT(step >= 1 && i >= 0 && i < order->global_batch_size);
    const int64_t epoch = (step - 1) / order->steps_per_epoch;
    const int64_t batch = (step - 1) % order->steps_per_epoch;
    const int64_t place = batch * order->global_batch_size + i;
    if (place >= order->n_samples) {
        return -1;
    }
    return order->shuffle ? fm_order_permute(order->seed, epoch, order->n_samples, place) : place;
}

void fm_order_microbatch(int64_t *samples, const fm_order *order, int64_t step, int64_t microbatch, int64_t local_batch_size,
                         int dp_index, int dp_size)
{
    const int64_t share = order->global_batch_size / dp_size;
    FM_ASSERT(share * dp_size == order->global_batch_size && share % local_batch_size == 0);
    for (int64_t i = 0; i < local_batch_size; i++) {
        samples[i] = fm_order_sample(order, step, dp_index * share + microbatch * local_batch_size + i);
    }
}
