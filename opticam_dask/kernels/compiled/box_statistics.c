/* Clipped statistics of boxes of pixels, see box_statistics.py for what is computed and for the form in NumPy.
 *
 * A box is not sorted. Its pixels are dealt into narrow bins in the order of their values; a rank or a bound of the
 * clip then needs the pixels of one bin sorted and no others. Sums over all pixels are made once: what a clip takes
 * away is subtracted from them. */

#include "box_statistics.h"

#define PIXELS_PER_BIN 8 /* on average over the range: 40 in the middle, which are soon sorted */
#define LEAST_BINS 32
#define MOST_BINS 1024

/* Sums have so many lanes whatever the vectors of the processor are: the same bits everywhere. */
#define LANES 8

typedef struct {
    double *pixels; /* as they are in the box */
    double *dealt;  /* in the order of the bins */
    int32_t *bin;   /* of each pixel */
    Py_ssize_t *start;  /* of each bin among the dealt pixels, and the end of the last */
    Py_ssize_t *next;   /* where the next pixel of a bin goes */
    char *is_sorted;
    Py_ssize_t n;
    int n_bins; /* bin 0 holds what is below the range, bin n_bins + 1 what is above */
    double low, per_bin;
    double centre;
    double sum, squares; /* of the deviations from the centre, over the pixels within the range */
} Box;

/* Guess the range from pixels here and there in the box; of equal pixels, from the least and the greatest. */
static void choose_range(Box *box)
{
    double sample[SAMPLE], low, high;
    Py_ssize_t n_sample = box->n < SAMPLE ? box->n : SAMPLE;
    for (Py_ssize_t i = 0; i < n_sample; i++)
        sample[i] = box->pixels[i * box->n / n_sample];
    sort_values(sample, n_sample);
    box->centre = sample[n_sample / 2];
    double sigma = (sample[3 * (n_sample - 1) / 4] - sample[(n_sample - 1) / 4]) / 1.349;
    low = box->centre - RANGE * sigma;
    high = box->centre + RANGE * sigma;
    if (!(sigma > 0.0)) {
        low = high = box->pixels[0];
        for (Py_ssize_t i = 1; i < box->n; i++) {
            low = box->pixels[i] < low ? box->pixels[i] : low;
            high = box->pixels[i] > high ? box->pixels[i] : high;
        }
    }
    int n_bins = LEAST_BINS;
    while (n_bins < MOST_BINS && n_bins * PIXELS_PER_BIN < box->n)
        n_bins *= 2;
    box->n_bins = n_bins;
    box->low = low;
    box->per_bin = n_bins / (high - low);
    if (!isfinite(box->per_bin)) /* all pixels are equal, or as good as */
        box->per_bin = 0.0;
}

/* Bin of a value; larger values never come into lower bins. */
static inline double place_of(const Box *box, double value)
{
    double place = (value - box->low) * box->per_bin + 1.0, last = box->n_bins + 1.0;
    place = place > 0.0 ? place : 0.0;
    return place < last ? place : last;
}

static void deal(Box *box)
{
    const Py_ssize_t n = box->n;
    const double last = box->n_bins + 1.0, low = box->low, per_bin = box->per_bin, centre = box->centre;
    const double *pixels = box->pixels;
    int32_t *bin = box->bin;
    const uint32_t within = (uint32_t)box->n_bins;
    double sums[LANES] = {0.0}, squares[LANES] = {0.0};
    for (Py_ssize_t i = 0; i < n; i++) { /* loops of one kind of work each become vector instructions */
        double place = (pixels[i] - low) * per_bin + 1.0;
        place = place > 0.0 ? place : 0.0;
        place = place < last ? place : last;
        bin[i] = (int32_t)place;
    }
    Py_ssize_t first = 0;
    for (; first + LANES <= n; first += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            double deviation = pixels[first + lane] - centre;
            deviation = bin[first + lane] - 1u < within ? deviation : 0.0;
            sums[lane] += deviation;
            squares[lane] += deviation * deviation;
        }
    }
    for (; first < n; first++) {
        double deviation = bin[first] - 1u < within ? pixels[first] - centre : 0.0;
        sums[0] += deviation;
        squares[0] += deviation * deviation;
    }
    box->sum = box->squares = 0.0;
    for (int lane = 0; lane < LANES; lane++) {
        box->sum += sums[lane];
        box->squares += squares[lane];
    }
    const int n_all = box->n_bins + 2;
    memset(box->next, 0, (size_t)n_all * sizeof *box->next);
    memset(box->is_sorted, 0, (size_t)n_all);
    for (Py_ssize_t i = 0; i < n; i++)
        box->next[bin[i]]++;
    Py_ssize_t total = 0;
    for (int b = 0; b < n_all; b++) {
        Py_ssize_t count = box->next[b];
        box->start[b] = box->next[b] = total;
        total += count;
    }
    box->start[n_all] = total;
    for (Py_ssize_t i = 0; i < n; i++)
        box->dealt[box->next[bin[i]]++] = pixels[i];
}

static void sort_bin(Box *box, int bin)
{
    if (!box->is_sorted[bin])
        sort_values(box->dealt + box->start[bin], box->start[bin + 1] - box->start[bin]);
    box->is_sorted[bin] = 1;
}

/* Value of a rank, from 0. */
static double value_at(Box *box, Py_ssize_t rank)
{
    int bin = 0, beyond = box->n_bins + 2;
    while (beyond - bin > 1) {
        int middle = (bin + beyond) / 2;
        if (box->start[middle] <= rank)
            bin = middle;
        else
            beyond = middle;
    }
    sort_bin(box, bin);
    return box->dealt[rank];
}

/* How many pixels are below a value, or not above it. */
static Py_ssize_t count_below(Box *box, double value, int or_equal)
{
    int bin = (int)place_of(box, value);
    sort_bin(box, bin);
    Py_ssize_t rank = box->start[bin];
    while (rank < box->start[bin + 1] && (box->dealt[rank] < value || (or_equal && box->dealt[rank] == value)))
        rank++;
    return rank;
}

static void add_up(const Box *box, Py_ssize_t first, Py_ssize_t last, double *sum, double *squares)
{
    for (Py_ssize_t i = first; i < last; i++) {
        double deviation = box->dealt[i] - box->centre;
        *sum += deviation;
        *squares += deviation * deviation;
    }
}

/* Moments of the pixels from rank first to last (exclusive). */
static Moments moments_of(Box *box, Py_ssize_t first, Py_ssize_t last)
{
    Moments moments;
    Py_ssize_t count = last - first;
    /* within the range of the bins the sums over all pixels are known */
    const Py_ssize_t begin = box->start[1], end = box->start[box->n_bins + 1];
    const Py_ssize_t from = first < begin ? begin : (first < end ? first : end);
    const Py_ssize_t to = last > end ? end : (last > from ? last : from);
    double sum = 0.0, squares = 0.0;
    if (2 * (to - from) >= end - begin) {
        double lost = 0.0, lost_squares = 0.0;
        add_up(box, begin, from, &lost, &lost_squares);
        add_up(box, to, end, &lost, &lost_squares);
        sum = box->sum - lost;
        squares = box->squares - lost_squares;
    } else {
        add_up(box, from, to, &sum, &squares);
    }
    add_up(box, first, last < begin ? last : begin, &sum, &squares);
    add_up(box, first > end ? first : end, last, &sum, &squares);
    if (count < 1) {
        moments.median = moments.mean = box->centre;
        moments.std = 0.0;
        return moments;
    }
    moments.median = 0.5 * (value_at(box, first + (count - 1) / 2) + value_at(box, first + count / 2));
    double mean = sum / (double)count, variance = squares / (double)count - mean * mean;
    moments.mean = box->centre + mean;
    moments.std = variance > 0.0 ? sqrt(variance) : (variance <= 0.0 ? 0.0 : (double)NAN);
    return moments;
}

/* Clip one box; at most `least` pixels left give NaN. */
static void clip(Box *box, double least, int readmit, double *level, double *scatter)
{
    *level = *scatter = (double)NAN;
    if (box->n < 1 || (double)box->n <= least)
        return;
    choose_range(box);
    deal(box);
    Py_ssize_t first = 0, last = box->n, final_first = 0, final_last = box->n;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        Moments now = moments_of(box, first, last);
        double lower = now.median - SIGMA * now.std, upper = now.median + SIGMA * now.std;
        Py_ssize_t n_below = !isfinite(lower) ? 0 : count_below(box, lower, 0);
        Py_ssize_t n_not_above = !isfinite(upper) ? box->n : count_below(box, upper, 1);
        final_first = n_below;
        final_last = n_not_above;
        if (n_below <= first && n_not_above >= last)
            break;
        first = n_below > first ? n_below : first;
        last = n_not_above < last ? n_not_above : last;
        if (last <= first)
            break;
    }
    if (readmit) {
        first = final_first;
        last = final_last;
    }
    if ((double)(last - first) <= least || last <= first)
        return;
    decide(moments_of(box, first, last), level, scatter);
}

/* Copy the finite pixels of a box, `height` rows of `width` pixels that are `row_stride` bytes apart. */
static void gather(Box *box, const char *from, Py_ssize_t height, Py_ssize_t width, Py_ssize_t row_stride, char kind)
{
    double not_finite = 0.0, *to = box->pixels;
    const size_t row_bytes = (size_t)width * (kind == UINT16 ? 2 : kind == FLOAT32 ? 4 : 8);
    for (Py_ssize_t y = 0; y < height; y++, from += row_stride, to += width) {
        FETCH_ROW(from + row_bytes, row_bytes); /* of the next box */
        if (kind == FLOAT32) {
            const float *row = (const float *)from;
            for (Py_ssize_t x = 0; x < width; x++)
                to[x] = (double)row[x];
        } else if (kind == UINT16) {
            const uint16_t *row = (const uint16_t *)from;
            for (Py_ssize_t x = 0; x < width; x++)
                to[x] = (double)row[x];
        } else {
            memcpy(to, from, (size_t)width * sizeof *to);
        }
    }
    box->n = height * width;
    double checks[LANES] = {0.0};
    Py_ssize_t i = 0;
    for (; i + LANES <= box->n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            checks[lane] += box->pixels[i + lane] - box->pixels[i + lane]; /* 0, or NaN for good */
    for (; i < box->n; i++)
        not_finite += box->pixels[i] - box->pixels[i];
    for (int lane = 0; lane < LANES; lane++)
        not_finite += checks[lane];
    if (not_finite == 0.0)
        return;
    Py_ssize_t n = 0;
    for (i = 0; i < height * width; i++)
        if (isfinite(box->pixels[i]))
            box->pixels[n++] = box->pixels[i];
    box->n = n;
}

static int allocate(Box *box, Py_ssize_t n)
{
    const size_t n_pixels = (size_t)(n > 0 ? n : 1), n_bins = MOST_BINS + 3;
    box->pixels = malloc(n_pixels * sizeof *box->pixels);
    box->dealt = malloc(n_pixels * sizeof *box->dealt);
    box->bin = malloc(n_pixels * sizeof *box->bin);
    box->start = malloc(n_bins * sizeof *box->start);
    box->next = malloc(n_bins * sizeof *box->next);
    box->is_sorted = malloc(n_bins);
    return box->pixels && box->dealt && box->bin && box->start && box->next && box->is_sorted;
}

static void release(Box *box)
{
    free(box->pixels);
    free(box->dealt);
    free(box->bin);
    free(box->start);
    free(box->next);
    free(box->is_sorted);
}

PyObject *box_statistics(PyObject *module, PyObject *arguments)
{
    PyObject *boxes_object, *result_object;
    double least;
    int readmit;
    Py_buffer boxes, result;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOdp:box_statistics", &boxes_object, &result_object, &least, &readmit))
        return NULL;
    if (PyObject_GetBuffer(boxes_object, &boxes, PyBUF_STRIDES | PyBUF_FORMAT) < 0)
        return NULL;
    const char kind = kind_of(&boxes);
    /* the pixels of a row follow each other; rows and boxes may lie anywhere */
    if (boxes.ndim != 4 || (kind != FLOAT32 && kind != FLOAT64 && kind != UINT16) || boxes.strides[3] != boxes.itemsize ||
        (uintptr_t)boxes.buf % (uintptr_t)boxes.itemsize || boxes.strides[0] % boxes.itemsize ||
        boxes.strides[1] % boxes.itemsize || boxes.strides[2] % boxes.itemsize) {
        PyErr_SetString(PyExc_TypeError, "boxes must be native uint16, float32 or float64 (row, column, y, x), rows in one piece");
        PyBuffer_Release(&boxes);
        return NULL;
    }
    if (open_array(result_object, &result, 3, FLOAT64, WRITE, "result") < 0) {
        PyBuffer_Release(&boxes);
        return NULL;
    }
    const Py_ssize_t *shape = boxes.shape, *strides = boxes.strides, n_boxes = shape[0] * shape[1];
    int is_done = 0;
    if (result.shape[0] != 2 || result.shape[1] != shape[0] || result.shape[2] != shape[1]) {
        PyErr_SetString(PyExc_ValueError, "result must have shape (2, row, column)");
    } else {
        Box box;
        Levels levels;
        const int has_room = allocate(&box, shape[2] * shape[3]);
        if (allocate_levels(&levels, shape[2] * shape[3]) && has_room) {
            Py_BEGIN_ALLOW_THREADS
            double *level = result.buf, *scatter = level + n_boxes;
            for (Py_ssize_t row = 0; row < shape[0]; row++) {
                for (Py_ssize_t column = 0; column < shape[1]; column++) {
                    const char *corner = (const char *)boxes.buf + row * strides[0] + column * strides[1];
                    if (kind == UINT16 && levels.n > 0 && count_levels(&levels, corner, shape[2], shape[3], strides[2])) {
                        clip_levels(&levels, least, readmit, level++, scatter++);
                        continue;
                    }
                    gather(&box, corner, shape[2], shape[3], strides[2], kind);
                    clip(&box, least, readmit, level++, scatter++);
                }
            }
            Py_END_ALLOW_THREADS
            is_done = 1;
        } else {
            PyErr_NoMemory();
        }
        release(&box);
        release_levels(&levels);
    }
    PyBuffer_Release(&boxes);
    PyBuffer_Release(&result);
    if (!is_done)
        return NULL;
    Py_RETURN_NONE;
}
