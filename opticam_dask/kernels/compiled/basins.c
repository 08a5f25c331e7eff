/* Basins of maxima that do not stand out join their neighbours: see segments.py for what is computed, and for the form
 * in NumPy. */

#include "arrays.h"
#include "sums.h"

/* A place where two basins touch, and its height. */
typedef struct {
    int64_t one, other;
    double height;
} Saddle;

/* The pixels of segments with several maxima, ascending, their values, segments and basins. */
typedef struct {
    Py_ssize_t n, n_basins, n_labels, nx;
    const int64_t *pixels, *labels, *owner;
    const double *values;
    int64_t *basins;
} Part;

/* When a basin stands out. */
typedef struct {
    double n_pixels, n_levels, contrast;
} Limits;

/* Sum, lowest and highest value of each segment. */
typedef struct {
    double total, lowest, highest;
} Segment;

/* The highest saddle of a basin, and what is above it. */
typedef struct {
    int64_t beyond, count;
    double height, level, flux;
} Rim;

/* Saddles between the basins; with room for none they are counted. */
static Py_ssize_t find_saddles(const Part *part, Saddle *saddles)
{
    static const int around[4][2] = {{0, 1}, {1, -1}, {1, 0}, {1, 1}}; /* row and column of the later neighbours */
    Py_ssize_t n_saddles = 0;
    for (int side = 0; side < 4; side++) {
        const int dx = around[side][1];
        Py_ssize_t there = 0;
        for (Py_ssize_t here = 0; here < part->n; here++) {
            const int64_t wanted = part->pixels[here] + around[side][0] * part->nx + dx;
            if (dx && part->pixels[here] % part->nx == (dx < 0 ? 0 : part->nx - 1))
                continue;
            while (there < part->n && part->pixels[there] < wanted)
                there++;
            if (there == part->n)
                break;
            if (part->pixels[there] != wanted || part->basins[here] == part->basins[there])
                continue;
            const double one = part->values[here], other = part->values[there];
            if (saddles)
                saddles[n_saddles] = (Saddle){part->basins[here], part->basins[there], one < other ? one : other};
            n_saddles++;
        }
    }
    return n_saddles;
}

static void measure_segments(const Part *part, Segment *segments)
{
    for (Py_ssize_t label = 0; label < part->n_labels; label++)
        segments[label] = (Segment){0.0, (double)INFINITY, -(double)INFINITY};
    for (Py_ssize_t i = 0; i < part->n; i++) {
        Segment *segment = &segments[part->labels[i]];
        segment->total += part->values[i];
        segment->lowest = part->values[i] < segment->lowest ? part->values[i] : segment->lowest;
        segment->highest = part->values[i] > segment->highest ? part->values[i] : segment->highest;
    }
}

/* Lowest level of a segment that is not below a height; infinite where there is none. */
static double level_above(double height, const Segment *segment, double n_levels)
{
    const double ratio = log(segment->highest / segment->lowest);
    const double step = ceil(log(height / segment->lowest) / ratio * (n_levels + 1.0) - 1e-9);
    if (!(step <= n_levels))
        return (double)INFINITY;
    const double level = segment->lowest * exponential((step > 1.0 ? step : 1.0) / (n_levels + 1.0) * ratio);
    return level > height ? level : height;
}

static void offer(Rim *rim, int64_t beyond, double height)
{
    if (rim->beyond < 0 || height > rim->height || (height == rim->height && beyond < rim->beyond)) {
        rim->beyond = beyond;
        rim->height = height;
    }
}

/* The highest saddle of each basin, and the pixels above the lowest level that separates it there. */
static void measure_rims(const Part *part, const Saddle *saddles, Py_ssize_t n_saddles, const Segment *segments,
                         const Limits *limits, Rim *rims)
{
    for (Py_ssize_t basin = 0; basin < part->n_basins; basin++)
        rims[basin] = (Rim){-1, 0, 0.0, (double)INFINITY, 0.0};
    for (Py_ssize_t i = 0; i < n_saddles; i++) {
        offer(&rims[saddles[i].one], saddles[i].other, saddles[i].height);
        offer(&rims[saddles[i].other], saddles[i].one, saddles[i].height);
    }
    for (Py_ssize_t basin = 0; basin < part->n_basins; basin++)
        if (rims[basin].beyond >= 0)
            rims[basin].level = level_above(rims[basin].height, &segments[part->owner[basin]], limits->n_levels);
    for (Py_ssize_t i = 0; i < part->n; i++) {
        Rim *rim = &rims[part->basins[i]];
        if (part->values[i] > rim->level) {
            rim->count++;
            rim->flux += part->values[i];
        }
    }
}

/* Join basins until all stand out; a joined one goes by the number of its first. */
static void join_basins(Part *part, Saddle *saddles, Segment *segments, const Limits *limits, Rim *rims, int64_t *joined)
{
    Py_ssize_t n_saddles = find_saddles(part, saddles);
    measure_segments(part, segments);
    while (n_saddles) {
        int is_any = 0;
        measure_rims(part, saddles, n_saddles, segments, limits, rims);
        for (Py_ssize_t basin = 0; basin < part->n_basins; basin++)
            joined[basin] = basin;
        for (Py_ssize_t basin = 0; basin < part->n_basins; basin++) {
            const double least = limits->contrast * segments[part->owner[basin]].total;
            if (rims[basin].beyond < 0 || !((double)rims[basin].count < limits->n_pixels || rims[basin].flux < least))
                continue;
            const int64_t a = first_of(joined, basin), b = first_of(joined, rims[basin].beyond);
            joined[a > b ? a : b] = a > b ? b : a;
            is_any = 1;
        }
        if (!is_any)
            break;
        for (Py_ssize_t i = 0; i < part->n; i++)
            part->basins[i] = first_of(joined, part->basins[i]);
        Py_ssize_t n_left = 0;
        for (Py_ssize_t i = 0; i < n_saddles; i++) {
            const Saddle saddle = {first_of(joined, saddles[i].one), first_of(joined, saddles[i].other), saddles[i].height};
            if (saddle.one != saddle.other)
                saddles[n_left++] = saddle;
        }
        n_saddles = n_left;
    }
}

/* Whether the numbers of segments and basins are in range, and pixels ascend. */
static int is_part(const Part *part)
{
    int is_right = part->nx > 0;
    for (Py_ssize_t i = 0; is_right && i < part->n; i++)
        is_right = part->labels[i] >= 0 && part->labels[i] < part->n_labels && part->basins[i] >= 0 &&
                   part->basins[i] < part->n_basins && part->pixels[i] >= 0 && (!i || part->pixels[i] > part->pixels[i - 1]);
    for (Py_ssize_t basin = 0; is_right && basin < part->n_basins; basin++)
        is_right = part->owner[basin] >= 0 && part->owner[basin] < part->n_labels;
    return is_right;
}

PyObject *merge_basins(PyObject *module, PyObject *arguments)
{
    enum { PIXELS, VALUES, LABELS, OWNER, BASINS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 1, INT64, READ, "pixels"}, {NULL, 1, FLOAT64, READ, "values"},  {NULL, 1, INT64, READ, "labels"},
        {NULL, 1, INT64, READ, "owner"},  {NULL, 1, INT64, WRITE, "basins"},
    };
    Py_buffer views[MOST_ARRAYS];
    Limits limits;
    Py_ssize_t nx, n_labels;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "nnddd:merge_basins", &n_labels, &nx, &limits.n_pixels,
                   &limits.n_levels, &limits.contrast) < 0)
        return NULL;
    const Py_ssize_t n = views[PIXELS].shape[0], n_basins = views[OWNER].shape[0];
    Part part = {n, n_basins, n_labels, nx, views[PIXELS].buf, views[LABELS].buf, views[OWNER].buf, views[VALUES].buf,
                 views[BASINS].buf};
    if (views[VALUES].shape[0] != n || views[LABELS].shape[0] != n || views[BASINS].shape[0] != n || !is_part(&part))
        return release_arrays(views, N_ARRAYS, "pixels, segments and basins do not belong together");
    int has_room;
    Py_BEGIN_ALLOW_THREADS
    Saddle *saddles = malloc((size_t)(find_saddles(&part, NULL) + 1) * sizeof *saddles);
    Segment *segments = malloc((size_t)(n_labels + 1) * sizeof *segments);
    Rim *rims = malloc((size_t)(n_basins + 1) * sizeof *rims);
    int64_t *joined = malloc((size_t)(n_basins + 1) * sizeof *joined);
    has_room = saddles && segments && rims && joined;
    if (has_room)
        join_basins(&part, saddles, segments, &limits, rims, joined);
    free(saddles);
    free(segments);
    free(rims);
    free(joined);
    Py_END_ALLOW_THREADS
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    return has_room ? done : (Py_XDECREF(done), PyErr_NoMemory());
}
