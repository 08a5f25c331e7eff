/* L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) where there may be cosmic rays, and nowhere else.
 *
 * The steps, and the order of every sum, are those of astroscrappy 1.3 with separable median filters, so that mask and
 * cleaned pixels are the same bits. What differs is where they are made. One pass over the frame finds the small blocks
 * in which the Laplacian could be above the limit at all; in these, what a cosmic ray must be is asked for in the order of
 * what it costs, until a pixel fails: above the noise, sharper than the light of stars, above the pixels around it. Later
 * rounds look only where pixels were cleaned. A frame of counts is turned into electrons only there, too. */

#include "arrays.h"
#include "cosmic_ray_frame.h"
#include "cosmic_ray_window.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROWN 2 /* how far marked pixels spread */
#define LEAST_STRUCTURE 0.01f
#define ROUNDING 4e-6 /* error of a Laplacian in single precision, in units of the largest pixel */

APART static void find_ends(const float *restrict row, float *restrict lowest, float *restrict highest, Py_ssize_t nx)
{
    for (Py_ssize_t x = 0; x < nx; x++) {
        lowest[x] = row[x] < lowest[x] ? row[x] : lowest[x];
        highest[x] = row[x] > highest[x] ? row[x] : highest[x];
    }
}

static inline float positive(float value)
{
    return value > 0.0f ? value : 0.0f;
}

/* Four times the Laplacian of a row, where it is larger than what was found. */
APART static void find_peaks(const float *restrict above, const float *restrict row, const float *restrict below,
                             float *restrict peaks, Py_ssize_t nx)
{
    for (Py_ssize_t x = EDGE; x < nx - EDGE; x++) {
        const float left = row[x] - row[x - 1], right = row[x] - row[x + 1], up = row[x] - above[x], down = row[x] - below[x];
        const float peak = positive(left + up) + positive(left + down) + (positive(right + up) + positive(right + down));
        peaks[x] = peak > peaks[x] ? peak : peaks[x];
    }
}

/* Ends and peaks of the blocks of the frame, in one pass over it; `room` is for six rows. */
static void scan(Frame *frame, float *room)
{
    const Py_ssize_t ny = frame->ny, nx = frame->nx;
    float *lowest = room, *highest = room + nx, *peaks = room + 2 * nx, *kept[3];
    const float *above, *row = NULL, *below = NULL;
    for (Py_ssize_t i = 0; i < 3; i++)
        kept[i] = room + (3 + i) * nx;
    for (Py_ssize_t y = -1; y < ny; y++) {
        above = row;
        row = below;
        below = y + 1 < ny ? stored_row(frame, y + 1, kept[(y + 1) % 3]) : NULL;
        if (y < 0)
            continue;
        if (y % BLOCK == 0) {
            memcpy(lowest, row, (size_t)nx * sizeof *lowest);
            memcpy(highest, row, (size_t)nx * sizeof *highest);
            memset(peaks, 0, (size_t)nx * sizeof *peaks);
        }
        find_ends(row, lowest, highest, nx);
        if (y >= EDGE && y < ny - EDGE)
            find_peaks(above, row, below, peaks, nx);
        if (y % BLOCK != BLOCK - 1 && y != ny - 1)
            continue;
        for (Py_ssize_t across = 0; across < frame->n_across; across++) {
            const Py_ssize_t end = (across + 1) * BLOCK < nx ? (across + 1) * BLOCK : nx;
            float least = lowest[across * BLOCK], most = highest[across * BLOCK], peak = 0.0f;
            for (Py_ssize_t x = across * BLOCK; x < end; x++) {
                least = lowest[x] < least ? lowest[x] : least;
                most = highest[x] > most ? highest[x] : most;
                peak = peaks[x] > peak ? peaks[x] : peak;
            }
            Block *block = &frame->blocks[y / BLOCK * frame->n_across + across];
            block->lowest = least;
            block->peak = peak;
            frame->least = least < frame->least ? least : frame->least;
            frame->most = most > frame->most ? most : frame->most;
        }
    }
}

/* Peak of the Laplacian up to which no pixel can be above the limit where none is below a level. */
static float peak_limit(const Frame *frame, float lowest)
{
    const double gain = frame->counts ? frame->gain : 1.0, offset = frame->counts ? frame->offset : 0.0;
    const double variance = fmax(lowest * gain - offset + frame->read_variance, LEAST_VARIANCE);
    const double largest = gain * fmax(fabs(frame->most), fabs(frame->least)) + fabs(offset);
    return (float)(4.0 / gain * (0.999 * 2.0 * frame->limit * sqrt(variance) - ROUNDING * largest));
}

/* Whether a pixel of a block can be above the limit as the frame was scanned. */
static int is_candidate(const Frame *frame, Py_ssize_t down, Py_ssize_t across)
{
    const float peak = frame->blocks[down * frame->n_across + across].peak;
    if (!(peak > frame->least_peak))
        return 0;
    float lowest = INFINITY;
    for (Py_ssize_t y = down > 0 ? down - 1 : 0; y <= down + 1 && y < frame->n_down; y++) {
        for (Py_ssize_t x = across > 0 ? across - 1 : 0; x <= across + 1 && x < frame->n_across; x++) {
            const float here = frame->blocks[y * frame->n_across + x].lowest;
            lowest = here < lowest ? here : lowest;
        }
    }
    return peak > peak_limit(frame, lowest);
}

/* Electrons and variances of a block and what it depends on. */
static void look(const Frame *frame, Window *window, Py_ssize_t down, Py_ssize_t across)
{
    const Py_ssize_t top = down * BLOCK, left = across * BLOCK;
    window->top = top > REACH ? top - REACH : 0;
    window->left = left > REACH ? left - REACH : 0;
    const Py_ssize_t bottom = top + BLOCK + REACH < frame->ny ? top + BLOCK + REACH : frame->ny;
    const Py_ssize_t right = left + BLOCK + REACH < frame->nx ? left + BLOCK + REACH : frame->nx;
    window->height = bottom - window->top;
    window->width = right - window->left;
    window->block.top = top - window->top;
    window->block.left = left - window->left;
    window->block.bottom = ((top + BLOCK < frame->ny ? top + BLOCK : frame->ny) - window->top);
    window->block.right = ((left + BLOCK < frame->nx ? left + BLOCK : frame->nx) - window->left);
    for (Py_ssize_t y = 0; y < window->height; y++) {
        const Py_ssize_t start = (window->top + y) * frame->nx + window->left;
        float *light = window->light + y * window->width, *variance = window->variance + y * window->width;
        if (frame->counts)
            for (Py_ssize_t x = 0; x < window->width; x++)
                light[x] = to_electrons(frame, frame->counts[start + x]);
        else
            memcpy(light, frame->pixels + start, (size_t)window->width * sizeof *light);
        for (Py_ssize_t x = 0; x < window->width; x++)
            variance[x] = light[x] + frame->read_variance;
        if (!frame->n_hits || !memchr(frame->found + start, 1, (size_t)window->width))
            continue;
        for (Py_ssize_t x = 0; x < window->width; x++) {
            if (frame->found[start + x]) {
                const Hit *hit = hit_at(frame, start + x);
                light[x] = hit->value;
                variance[x] = hit->variance;
            }
        }
    }
}

/* Whether a Laplacian of the block can be above the limit, whatever the medians around it are. */
static int may_have_seeds(const Frame *frame, Window *window)
{
    const Py_ssize_t width = window->width;
    const Area block = window->block, wide = widened(window, EDGE);
    float lowest = window->variance[wide.top * width + wide.left], most = 0.0f;
    for (Py_ssize_t y = wide.top; y < wide.bottom; y++)
        for (Py_ssize_t i = y * width + wide.left; i < y * width + wide.right; i++)
            lowest = window->variance[i] < lowest ? window->variance[i] : lowest;
    set_laplacian(window, block);
    for (Py_ssize_t y = block.top; y < block.bottom; y++)
        for (Py_ssize_t i = y * width + block.left; i < y * width + block.right; i++)
            most = window->signal[i] > most ? window->signal[i] : most;
    lowest = lowest > LEAST_VARIANCE ? lowest : LEAST_VARIANCE;
    return most > 0.999f * frame->limit * 2.0f * sqrtf(lowest);
}

/* Pixels of the block that are cosmic rays by themselves. What stands above the pixels around it is at most the signal,
   so that this, the most expensive, is asked for last. */
static uint64_t find_seeds(const Frame *frame, Window *window)
{
    const Py_ssize_t width = window->width;
    const Area block = window->block;
    uint64_t seeds = 0;
    for (int stage = 0; stage < 3; stage++) {
        if (stage == 0) {
            if (!may_have_seeds(frame, window))
                return 0;
            set_signal(window, block);
        } else if (stage == 1) {
            median_filter(window, window->light, window->fine, widened(window, 4), 5);
            median_filter(window, window->fine, window->coarse, block, 9);
        } else {
            set_signal(window, widened(window, EDGE));
            median_filter(window, window->signal, window->around, block, 7);
        }
        seeds = 0;
        for (Py_ssize_t y = block.top; y < block.bottom; y++) {
            for (Py_ssize_t x = block.left; x < block.right; x++) {
                const Py_ssize_t i = y * width + x;
                const float excess = stage < 2 ? window->signal[i] : window->signal[i] - window->around[i];
                int is_seed = excess > frame->limit;
                if (is_seed && stage > 0) {
                    float structure = (window->fine[i] - window->coarse[i]) / window->noise[i];
                    structure = structure < LEAST_STRUCTURE ? LEAST_STRUCTURE : structure;
                    is_seed = excess / structure > frame->object_limit;
                }
                if (is_seed && is_good(frame, (window->top + y) * frame->nx + window->left + x))
                    seeds |= (uint64_t)1 << ((y - block.top) * BLOCK + x - block.left);
            }
        }
        if (!seeds)
            return 0;
    }
    return seeds;
}

static int is_seed(const Frame *frame, Py_ssize_t y, Py_ssize_t x)
{
    const uint64_t seeds = frame->blocks[y / BLOCK * frame->n_across + x / BLOCK].seeds;
    return (int)(seeds >> (y % BLOCK * BLOCK + x % BLOCK) & 1);
}

/* Spread marks to the eight neighbours of those of an area that are good and above a limit. */
static void spread(const Frame *frame, Window *window, const uint8_t *from, uint8_t *to, Area area, float limit)
{
    const Py_ssize_t width = window->width;
    for (Py_ssize_t y = area.top; y < area.bottom; y++) {
        for (Py_ssize_t x = area.left; x < area.right; x++) {
            const Py_ssize_t i = y * width + x;
            to[i] = 0;
            if (!(window->signal[i] - window->around[i] > limit)) /* at the border of the frame it is 0 */
                continue;
            const uint8_t *at = from + i;
            const int is_near = at[0] | at[-1] | at[1] | at[-width] | at[-width - 1] | at[-width + 1] | at[width] |
                                at[width - 1] | at[width + 1];
            to[i] = is_near && is_good(frame, (window->top + y) * frame->nx + window->left + x);
        }
    }
}

/* Keep the cosmic rays of a block: its seeds and those of its neighbours, and what lies around them. */
static void collect(Frame *frame, Window *window, Py_ssize_t down, Py_ssize_t across)
{
    look(frame, window, down, across);
    const Py_ssize_t width = window->width;
    const Area wide = widened(window, GROWN), block = window->block;
    int has_seeds = 0;
    for (Py_ssize_t y = wide.top; y < wide.bottom; y++)
        for (Py_ssize_t x = wide.left; x < wide.right; x++)
            has_seeds |= window->marked[y * width + x] = (uint8_t)is_seed(frame, window->top + y, window->left + x);
    if (!has_seeds)
        return;
    set_signal(window, widened(window, 1 + EDGE));
    median_filter(window, window->signal, window->around, widened(window, 1), 7);
    spread(frame, window, window->marked, window->grown, widened(window, 1), frame->limit);
    spread(frame, window, window->grown, window->marked, block, frame->low_limit);
    for (Py_ssize_t y = block.top; y < block.bottom; y++)
        for (Py_ssize_t x = block.left; x < block.right; x++)
            if (window->marked[y * width + x])
                keep_hit(frame, (window->top + y) * frame->nx + window->left + x);
}

/* Median of the frame as it was, without masked pixels. */
static void measure_level(Frame *frame)
{
    const Py_ssize_t n = frame->ny * frame->nx;
    float *good = malloc((size_t)n * sizeof *good);
    frame->has_level = 1;
    frame->level = 0.0f;
    if (!good) {
        frame->is_out_of_memory = 1;
        return;
    }
    Py_ssize_t n_good = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if (is_good(frame, i))
            good[n_good++] = frame->found[i] ? hit_at(frame, i)->original : light_of(frame, i);
    if (n_good)
        frame->level = select_rank(good, n_good, (n_good - 1) / 2);
    free(good);
}

/* Replace a cosmic ray by the mean of the good pixels around it; returns whether that is another than before. */
static int clean(Frame *frame, Hit *hit, int is_new)
{
    const Py_ssize_t nx = frame->nx, y = hit->place / nx, x = hit->place % nx;
    float sum = 0.0f, variance = 0.0f;
    int n_good = 0;
    for (Py_ssize_t row = y - 2; row <= y + 2; row++) {
        for (Py_ssize_t i = row * nx + x - 2; i <= row * nx + x + 2; i++) {
            if (!frame->found[i] && is_good(frame, i)) {
                const float light = light_of(frame, i);
                sum += light;
                variance += light + frame->read_variance;
                n_good++;
            }
        }
    }
    if (n_good) {
        sum /= (float)n_good;
        variance /= (float)n_good;
    } else {
        if (!frame->has_level)
            measure_level(frame);
        sum = frame->level;
        variance = frame->level + frame->read_variance;
    }
    const int has_changed = is_new || hit->value != sum || hit->variance != variance;
    hit->value = sum;
    hit->variance = variance;
    return has_changed;
}

/* Blocks that depend on a pixel are looked at again. */
static void set_dirty(Frame *frame, Py_ssize_t place)
{
    const Py_ssize_t y = place / frame->nx, x = place % frame->nx;
    const Py_ssize_t top = y > REACH ? y - REACH : 0, left = x > REACH ? x - REACH : 0;
    for (Py_ssize_t down = top / BLOCK; down <= (y + REACH) / BLOCK && down < frame->n_down; down++)
        for (Py_ssize_t across = left / BLOCK; across <= (x + REACH) / BLOCK && across < frame->n_across; across++)
            frame->blocks[down * frame->n_across + across].is_dirty = 1;
}

/* One round: seeds of the blocks that are dirty, then cosmic rays of those that have seeds in them or beside them. */
static void search_round(Frame *frame, Window *window, int is_first)
{
    const Py_ssize_t n_blocks = frame->n_down * frame->n_across;
    for (Py_ssize_t i = 0; i < n_blocks; i++) {
        Block *block = &frame->blocks[i];
        block->is_done = 0;
        if (!block->is_dirty || (is_first && !is_candidate(frame, i / frame->n_across, i % frame->n_across)))
            continue;
        look(frame, window, i / frame->n_across, i % frame->n_across);
        block->seeds = find_seeds(frame, window);
    }
    for (Py_ssize_t i = 0; i < n_blocks && !frame->is_out_of_memory; i++) {
        if (!frame->blocks[i].seeds)
            continue;
        const Py_ssize_t y = i / frame->n_across, x = i % frame->n_across;
        for (Py_ssize_t down = y > 0 ? y - 1 : 0; down <= y + 1 && down < frame->n_down; down++) {
            for (Py_ssize_t across = x > 0 ? x - 1 : 0; across <= x + 1 && across < frame->n_across; across++) {
                Block *block = &frame->blocks[down * frame->n_across + across];
                if (block->is_dirty && !block->is_done)
                    collect(frame, window, down, across);
                block->is_done = 1;
            }
        }
    }
}

static void search(Frame *frame, Window *window, int n_rounds)
{
    const Py_ssize_t n_blocks = frame->n_down * frame->n_across;
    for (Py_ssize_t i = 0; i < n_blocks; i++)
        frame->blocks[i].is_dirty = 1;
    for (int round = 0; round < n_rounds && !frame->is_out_of_memory; round++) {
        const size_t n_before = frame->n_hits;
        search_round(frame, window, round == 0);
        if (frame->n_hits == n_before)
            break; /* what was marked is clean already: another round would find the same */
        for (Py_ssize_t i = 0; i < n_blocks; i++)
            frame->blocks[i].is_dirty = 0;
        for (size_t i = 0; i < frame->n_hits; i++)
            if (clean(frame, &frame->hits[i], i >= n_before))
                set_dirty(frame, frame->hits[i].place);
    }
}

/* Search a frame; 0 where memory lacks. */
static int search_frame(Frame *frame, float saturation, int n_rounds)
{
    float *room = malloc((size_t)frame->nx * 6 * sizeof *room);
    Window *window = calloc(1, sizeof *window);
    frame->n_down = (frame->ny + BLOCK - 1) / BLOCK;
    frame->n_across = (frame->nx + BLOCK - 1) / BLOCK;
    frame->blocks = calloc((size_t)(frame->n_down * frame->n_across), sizeof *frame->blocks);
    frame->is_out_of_memory = !room || !window || !frame->blocks;
    if (!frame->is_out_of_memory) {
        frame->least = INFINITY;
        frame->most = -INFINITY;
        scan(frame, room);
        frame->least_peak = peak_limit(frame, frame->least);
        frame->is_out_of_memory = !mask_saturated(frame, room, saturation);
    }
    if (!frame->is_out_of_memory)
        search(frame, window, n_rounds);
    free(room);
    free(window);
    free(frame->blocks);
    free(frame->mask);
    free(frame->slots);
    return !frame->is_out_of_memory;
}

static int by_place(const void *one, const void *other)
{
    const Py_ssize_t difference = ((const Hit *)one)->place - ((const Hit *)other)->place;
    return (difference > 0) - (difference < 0);
}

/* Places and new values of the pixels that were replaced, as bytes. */
static PyObject *replaced(Frame *frame)
{
    const Py_ssize_t n = (Py_ssize_t)frame->n_hits;
    PyObject *places = PyBytes_FromStringAndSize(NULL, n * (Py_ssize_t)sizeof(int64_t));
    PyObject *values = PyBytes_FromStringAndSize(NULL, n * (Py_ssize_t)sizeof(float));
    if (!places || !values) {
        Py_XDECREF(places);
        Py_XDECREF(values);
        return NULL;
    }
    char *place = PyBytes_AsString(places), *value = PyBytes_AsString(values);
    if (n)
        qsort(frame->hits, (size_t)n, sizeof *frame->hits, by_place);
    for (Py_ssize_t i = 0; i < n; i++) {
        const int64_t at = frame->hits[i].place;
        memcpy(place + i * (Py_ssize_t)sizeof at, &at, sizeof at);
        memcpy(value + i * (Py_ssize_t)sizeof(float), &frame->hits[i].value, sizeof(float));
    }
    return Py_BuildValue("(NN)", places, values);
}

PyObject *cosmic_rays(PyObject *module, PyObject *arguments)
{
    enum { PIXELS, MASK, FOUND, N_ARRAYS };
    PyObject *given[N_ARRAYS];
    Frame frame = {.gain = 1.0};
    float read_noise, saturation, fraction;
    int n_rounds;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOfffffi|dd:cosmic_rays", &given[PIXELS], &given[MASK], &given[FOUND], &read_noise,
                          &saturation, &frame.limit, &fraction, &frame.object_limit, &n_rounds, &frame.gain, &frame.offset))
        return NULL;
    const int is_counted = kind_of_object(given[PIXELS]) == UINT16;
    const Wanted wanted[N_ARRAYS] = {
        {given[PIXELS], 2, is_counted ? UINT16 : FLOAT32, READ, "pixels"},
        {given[MASK], 2, BOOL, OPTIONAL, "mask"},
        {given[FOUND], 2, BOOL, WRITE, "found"},
    };
    Py_buffer views[N_ARRAYS];
    if (open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const char *wrong = NULL;
    frame.ny = views[PIXELS].shape[0];
    frame.nx = views[PIXELS].shape[1];
    for (int i = MASK; i < N_ARRAYS; i++)
        if (views[i].buf && (views[i].shape[0] != frame.ny || views[i].shape[1] != frame.nx))
            wrong = "pixels, mask and found must have one shape";
    if (!wrong && (frame.ny < 2 * REACH || frame.nx < 2 * REACH))
        wrong = "pixels, mask and found must have one shape, of at least 16 x 16";
    int is_done = 1;
    if (!wrong) {
        frame.pixels = is_counted ? NULL : views[PIXELS].buf;
        frame.counts = is_counted ? views[PIXELS].buf : NULL;
        frame.given = views[MASK].buf;
        frame.found = views[FOUND].buf;
        frame.read_variance = read_noise * read_noise;
        frame.low_limit = fraction * frame.limit;
        Py_BEGIN_ALLOW_THREADS
        memset(frame.found, 0, (size_t)(frame.ny * frame.nx));
        is_done = search_frame(&frame, saturation, n_rounds);
        Py_END_ALLOW_THREADS
    }
    PyObject *done = release_arrays(views, N_ARRAYS, wrong);
    if (done) {
        Py_DECREF(done);
        done = is_done ? replaced(&frame) : PyErr_NoMemory();
    }
    free(frame.hits);
    return done;
}
