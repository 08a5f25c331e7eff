/* Clipped statistics of boxes of pixels of 16 bits: the same numbers as in box_statistics.c, in less time.
 *
 * The pixels of a box are counted level by level near the sky. With sums up to each level a rank, a bound of the clip or
 * a moment is looked up; of the few pixels beyond the range those are gone through that a bound lies among. All sums are
 * whole numbers. */

#include "box_statistics.h"

/* Ranges of more levels are not counted. */
#define MOST_LEVELS 4096
/* Levels of 16 bits. */
#define N_LEVELS 65536
/* Pixels of a row that are looked at together: whether all of them are within the range. */
#define AT_ONCE 32

static int64_t level_index(const Levels *levels, int64_t value)
{
    const int64_t index = value - levels->low;
    return index < 0 ? 0 : (index < levels->n_levels ? index : levels->n_levels);
}

/* The others from one place to another that have such values. */
static Within within_others(const Levels *levels, Py_ssize_t from, Py_ssize_t to, int64_t lowest, int64_t highest)
{
    Within found = {0, 0, 0};
    for (Py_ssize_t i = from; i < to; i++) {
        const int64_t value = levels->others[i], deviation = value - levels->centre;
        const int64_t counts = value >= lowest && value <= highest;
        found.count += counts;
        found.sum += counts * deviation;
        found.squares += counts * deviation * deviation;
    }
    return found;
}

static void add(Within *found, Within more)
{
    found->count += more.count;
    found->sum += more.sum;
    found->squares += more.squares;
}

static Within within(const Levels *levels, int64_t lowest, int64_t highest)
{
    Within found = {0, 0, 0};
    if (highest < lowest)
        return found;
    const int64_t from = level_index(levels, lowest), to = level_index(levels, highest + 1);
    const Py_ssize_t n = levels->n, middle = levels->n_below;
    found.count = levels->below[to] - levels->below[from];
    found.sum = levels->sum[to] - levels->sum[from];
    found.squares = levels->squares[to] - levels->squares[from];
    if (lowest <= 0 && highest >= levels->low)
        add(&found, levels->all_below);
    else if (lowest < levels->low)
        add(&found, within_others(levels, 0, middle, lowest, highest));
    if (highest >= N_LEVELS - 1 && lowest < levels->low + levels->n_levels)
        add(&found, levels->all_above);
    else if (highest >= levels->low + levels->n_levels)
        add(&found, within_others(levels, n - levels->n_above, n, lowest, highest));
    return found;
}

/* How many pixels are below a value. */
static int64_t count_below(const Levels *levels, int64_t value)
{
    const int64_t end = levels->low + levels->n_levels;
    int64_t found = levels->n_below + levels->below[level_index(levels, value)];
    if (value < levels->low) {
        found = 0;
        for (Py_ssize_t i = 0; i < levels->n_below; i++)
            found += levels->others[i] < value;
    } else if (value > end) {
        for (Py_ssize_t i = levels->n - levels->n_above; i < levels->n; i++)
            found += levels->others[i] < value;
    }
    return found;
}

/* Value of a rank among all pixels, which is looked for from a level near it. */
static int64_t level_at(const Levels *levels, int64_t rank, int64_t near)
{
    const int64_t wanted = rank - levels->n_below;
    int64_t begin = 0, end = N_LEVELS - 1; /* the value is one of these */
    if (wanted >= 0 && wanted < levels->below[levels->n_levels]) { /* the others need not be looked at */
        int64_t level = near - levels->low;
        level = level < 0 ? 0 : (level < levels->n_levels ? level : levels->n_levels - 1);
        while (levels->below[level] > wanted)
            level--;
        while (levels->below[level + 1] <= wanted)
            level++;
        return levels->low + level;
    }
    while (begin < end) {
        const int64_t middle = (begin + end) / 2;
        if (count_below(levels, middle + 1) > rank)
            end = middle;
        else
            begin = middle + 1;
    }
    return begin;
}

static Moments moments_of_levels(const Levels *levels, int64_t lowest, int64_t highest)
{
    Moments moments = {(double)levels->centre, (double)levels->centre, 0.0};
    const Within found = within(levels, lowest, highest);
    if (found.count < 1)
        return moments;
    const int64_t before = count_below(levels, lowest), one = level_at(levels, before + (found.count - 1) / 2, levels->centre);
    const int64_t other = level_at(levels, before + found.count / 2, one);
    const double count = (double)found.count, mean = (double)found.sum / count;
    const double variance = (double)found.squares / count - mean * mean;
    moments.median = 0.5 * (double)(one + other);
    moments.mean = (double)levels->centre + mean;
    moments.std = variance > 0.0 ? sqrt(variance) : 0.0;
    return moments;
}

/* Level of each pixel of a row above the lowest of the range; of `AT_ONCE` pixels each the highest. A pixel below the
 * range has a level far above it. */
IN_LANES static void take_levels(const uint16_t *restrict row, Py_ssize_t n_groups, uint16_t low,
                                 uint16_t *restrict level, uint16_t *restrict highest)
{
    for (Py_ssize_t group = 0; group < n_groups; group++) {
        uint16_t most = 0;
        for (Py_ssize_t x = group * AT_ONCE; x < (group + 1) * AT_ONCE; x++) {
            level[x] = (uint16_t)(row[x] - low);
            most = level[x] > most ? level[x] : most;
        }
        highest[group] = most;
    }
}

/* Count some pixels of a row, each of which may be beyond the range. */
static void count_any(Levels *levels, const uint16_t *row, Py_ssize_t n)
{
    const uint16_t low = (uint16_t)levels->low;
    for (Py_ssize_t x = 0; x < n; x++) {
        const uint16_t level = (uint16_t)(row[x] - low);
        if (level < levels->n_levels)
            levels->count[level]++;
        else if (row[x] < low)
            levels->others[levels->n_below++] = row[x];
        else
            levels->others[levels->n - ++levels->n_above] = row[x];
    }
}

/* Count a row of pixels. Where none is beyond the range, which is most of the sky, none is asked: that takes half the
 * time. Neighbours, which are often equal, are counted apart, so that one need not wait for the other. */
static void count_row(Levels *levels, const uint16_t *row, Py_ssize_t width)
{
    const Py_ssize_t n_groups = width / AT_ONCE;
    uint32_t *even = levels->count, *odd = levels->odd;
    take_levels(row, n_groups, (uint16_t)levels->low, levels->row, levels->highest);
    for (Py_ssize_t group = 0; group < n_groups; group++) {
        const uint16_t *level = levels->row + group * AT_ONCE;
        if (levels->highest[group] >= levels->n_levels) {
            count_any(levels, row + group * AT_ONCE, AT_ONCE);
            continue;
        }
        for (int i = 0; i < AT_ONCE; i += 2) {
            even[level[i]]++;
            odd[level[i + 1]]++;
        }
    }
    count_any(levels, row + n_groups * AT_ONCE, width - n_groups * AT_ONCE);
}

/* Count the pixels of a box; 0 where their range has too many levels. */
int count_levels(Levels *levels, const char *from, Py_ssize_t height, Py_ssize_t width, Py_ssize_t row_stride)
{
    double sample[SAMPLE];
    const Py_ssize_t n_sample = levels->n < SAMPLE ? levels->n : SAMPLE;
    for (Py_ssize_t i = 0; i < n_sample; i++) {
        const Py_ssize_t place = i * levels->n / n_sample;
        sample[i] = (double)((const uint16_t *)(from + place / width * row_stride))[place % width];
    }
    sort_values(sample, n_sample);
    const double sigma = (sample[3 * (n_sample - 1) / 4] - sample[(n_sample - 1) / 4]) / 1.349;
    const int64_t half = (int64_t)(RANGE * sigma) + 2;
    levels->centre = (int64_t)sample[n_sample / 2];
    levels->low = levels->centre > half ? levels->centre - half : 0;
    /* none above the last one: a pixel below the range would be counted there */
    const int64_t last = levels->centre + half < N_LEVELS ? levels->centre + half : N_LEVELS - 1;
    levels->n_levels = last + 1 - levels->low;
    levels->n_below = levels->n_above = 0;
    if (levels->n_levels > MOST_LEVELS)
        return 0;
    const uint32_t n_levels = (uint32_t)levels->n_levels;
    memset(levels->count, 0, n_levels * sizeof *levels->count);
    memset(levels->odd, 0, n_levels * sizeof *levels->odd);
    for (Py_ssize_t y = 0; y < height; y++, from += row_stride) {
        const uint16_t *row = (const uint16_t *)from;
        FETCH_ROW(row + width, width * sizeof *row); /* of the next box */
        count_row(levels, row, width);
    }
    levels->all_below = within_others(levels, 0, levels->n_below, 0, N_LEVELS);
    levels->all_above = within_others(levels, levels->n - levels->n_above, levels->n, 0, N_LEVELS);
    int64_t total = 0, sum = 0, squares = 0, deviation = levels->low - levels->centre;
    levels->below[0] = levels->sum[0] = levels->squares[0] = 0;
    for (uint32_t level = 0; level < n_levels; level++, deviation++) {
        const int64_t here = (int64_t)levels->count[level] + levels->odd[level];
        total += here;
        sum += here * deviation;
        squares += here * deviation * deviation;
        levels->below[level + 1] = total;
        levels->sum[level + 1] = sum;
        levels->squares[level + 1] = squares;
    }
    return 1;
}

/* As `clip`, for pixels that were counted; bounds are whole numbers. */
void clip_levels(const Levels *levels, double least, int readmit, double *level, double *scatter)
{
    *level = *scatter = (double)NAN;
    if (levels->n < 1 || (double)levels->n <= least)
        return;
    int64_t lowest = 0, highest = N_LEVELS - 1, final_lowest = lowest, final_highest = highest;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        const Moments now = moments_of_levels(levels, lowest, highest);
        final_lowest = (int64_t)ceil(fmax(now.median - SIGMA * now.std, 0.0));
        final_highest = (int64_t)floor(fmin(now.median + SIGMA * now.std, N_LEVELS - 1.0));
        if (count_below(levels, final_lowest) <= count_below(levels, lowest) &&
            count_below(levels, final_highest + 1) >= count_below(levels, highest + 1))
            break;
        lowest = final_lowest > lowest ? final_lowest : lowest;
        highest = final_highest < highest ? final_highest : highest;
        if (count_below(levels, highest + 1) <= count_below(levels, lowest))
            break;
    }
    if (readmit) {
        lowest = final_lowest;
        highest = final_highest;
    }
    const int64_t count = count_below(levels, highest + 1) - count_below(levels, lowest);
    if ((double)count <= least || count < 1)
        return;
    decide(moments_of_levels(levels, lowest, highest), level, scatter);
}

int allocate_levels(Levels *levels, Py_ssize_t n)
{
    const size_t n_entries = MOST_LEVELS + 1, n_pixels = (size_t)(n > 0 ? n : 1);
    levels->n = n;
    levels->below = malloc(n_entries * sizeof *levels->below);
    levels->sum = malloc(n_entries * sizeof *levels->sum);
    levels->squares = malloc(n_entries * sizeof *levels->squares);
    levels->count = malloc(n_entries * sizeof *levels->count);
    levels->odd = malloc(n_entries * sizeof *levels->odd);
    levels->others = malloc(n_pixels * sizeof *levels->others);
    levels->row = malloc(n_pixels * sizeof *levels->row);
    levels->highest = malloc(n_pixels * sizeof *levels->highest);
    return levels->below && levels->sum && levels->squares && levels->count && levels->odd && levels->others &&
           levels->row && levels->highest;
}

void release_levels(Levels *levels)
{
    free(levels->below);
    free(levels->sum);
    free(levels->squares);
    free(levels->count);
    free(levels->odd);
    free(levels->others);
    free(levels->row);
    free(levels->highest);
}
