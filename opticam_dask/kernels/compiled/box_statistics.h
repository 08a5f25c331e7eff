/* What both ways to the clipped statistics of a box share, see box_statistics.c. */

#ifndef OPTICAM_DASK_BOX_STATISTICS_H
#define OPTICAM_DASK_BOX_STATISTICS_H

#include "arrays.h"
#include "sums.h"

#define SIGMA 3.0
#define MAX_ROUNDS 10
#define CROWDED 0.3

#define SAMPLE 15        /* pixels from which the range of the bins is guessed */
#define RANGE 6.0        /* half of that range in sigma of the sample */

typedef struct {
    double median, mean, std;
} Moments;

static inline void sort_values(double *values, Py_ssize_t n)
{
    if (n > 64) { /* equal pixels, or a box that is no sky */
        qsort(values, (size_t)n, sizeof *values, by_value);
        return;
    }
    for (Py_ssize_t i = 1; i < n; i++) {
        double value = values[i];
        Py_ssize_t j = i;
        for (; j > 0 && values[j - 1] > value; j--)
            values[j] = values[j - 1];
        values[j] = value;
    }
}

/* Level and scatter from the moments of what a clip has left. */
static inline void decide(Moments left, double *level, double *scatter)
{
    if (!isfinite(left.std))
        return;
    const int is_crowded = fabs(left.mean - left.median) / left.std >= CROWDED;
    if (left.std == 0.0)
        *level = left.mean;
    else
        *level = is_crowded ? left.median : 2.5 * left.median - 1.5 * left.mean;
    *scatter = left.std;
}

/* Number of some pixels, and sums of their deviations from a centre and of the squares of these. */
typedef struct {
    int64_t count, sum, squares;
} Within;

/* Pixels of 16 bits in one box, counted level by level near the sky; the others in no order. */
typedef struct {
    int64_t *below;   /* how many pixels of the range are below each level, with one entry for all of them */
    int64_t *sum;     /* of their deviations from the centre, and */
    int64_t *squares; /* of the squares of these */
    uint32_t *count;  /* of each level, and */
    uint32_t *odd;    /* of every other pixel apart */
    uint16_t *others; /* pixels below the range, first, and above it, last */
    uint16_t *row;     /* room for the levels of a row, and */
    uint16_t *highest; /* for the highest of each group of them */
    Py_ssize_t n, n_below, n_above;
    Within all_below, all_above;
    int64_t low, n_levels, centre;
} Levels;

int allocate_levels(Levels *levels, Py_ssize_t n);
void release_levels(Levels *levels);

/* Count the pixels of a box; 0 where their range has too many levels. */
int count_levels(Levels *levels, const char *from, Py_ssize_t height, Py_ssize_t width, Py_ssize_t row_stride);

/* Clip the pixels that were counted; at most `least` of them left give NaN. */
void clip_levels(const Levels *levels, double least, int readmit, double *level, double *scatter);

#endif
