/* A histogram of times in nanoseconds, exact to 1.6 %: 64 steps in every power of two, nothing is ever left out.
 * One array increment a value, so that a hundred thousand a second cost nothing. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

#define HISTOGRAM_STEPS 64
#define HISTOGRAM_SLOTS (HISTOGRAM_STEPS * 60)

struct histogram {
    uint64_t slots[HISTOGRAM_SLOTS];
    uint64_t count, sum, largest;
};

static inline unsigned histogram_slot(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned power = 63u - (unsigned)__builtin_clzll(value);
    unsigned shift = power - 6;
    return (power - 5) * HISTOGRAM_STEPS + (unsigned)((value >> shift) & (HISTOGRAM_STEPS - 1));
}

/* The largest value that falls into the slot. */
static inline uint64_t histogram_upper(unsigned slot)
{
    if (slot < HISTOGRAM_STEPS)
        return slot;
    unsigned shift = slot / HISTOGRAM_STEPS - 1;
    return (((uint64_t)HISTOGRAM_STEPS + slot % HISTOGRAM_STEPS + 1) << shift) - 1;
}

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
    unsigned slot = histogram_slot(value);
    histogram->slots[slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1]++;
    histogram->count++;
    histogram->sum += value;
    if (value > histogram->largest)
        histogram->largest = value;
}

/* The value that `share` of all values do not exceed (0.99: the 99th percentile). */
static inline uint64_t histogram_at(const struct histogram *histogram, double share)
{
    uint64_t below = 0, wanted = (uint64_t)(share * (double)histogram->count + 0.999999);
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        below += histogram->slots[slot];
        if (below >= wanted && below) {
            uint64_t upper = histogram_upper(slot);
            return upper < histogram->largest ? upper : histogram->largest;
        }
    }
    return histogram->largest;
}

/* As a JSON object, times in microseconds; "slots" holds [upper end, how many] of every slot that is not empty. */
static inline void histogram_print(FILE *out, const struct histogram *histogram)
{
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50_us", 0.5}, {"p90_us", 0.9}, {"p99_us", 0.99}, {"p999_us", 0.999}};
    double mean = histogram->count ? (double)histogram->sum / (double)histogram->count : 0;
    fprintf(out, "{\"count\": %llu, \"mean_us\": %.1f", (unsigned long long)histogram->count, mean / 1e3);
    for (unsigned i = 0; i < sizeof points / sizeof *points; i++)
        fprintf(out, ", \"%s\": %.1f", points[i].name, (double)histogram_at(histogram, points[i].share) / 1e3);
    fprintf(out, ", \"max_us\": %.1f, \"slots\": [", (double)histogram->largest / 1e3);
    const char *comma = "";
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        if (!histogram->slots[slot])
            continue;
        fprintf(out, "%s[%.1f, %llu]", comma, (double)histogram_upper(slot) / 1e3,
                (unsigned long long)histogram->slots[slot]);
        comma = ", ";
    }
    fprintf(out, "]}");
}

#endif
