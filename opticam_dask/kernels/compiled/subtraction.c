/* Takes the sky off a frame, row by row, and counts what is sky; see subtraction.py for the form in NumPy. */

#include "arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KNOTS 5   /* rows of the widened mesh that reach the rows of one box; */
#define NONZERO 4 /* the weight of the first or of the last of them is 0 */
#define AT_ONCE 32

/* What is known of a frame and its sky; lengths in pixels. */
typedef struct {
    Py_ssize_t ny, nx, box_y, box_x, mesh_x;
    const double *weights; /* of the knots in each row of a box */
    const double *wide, *rms_wide;
    const int64_t *rows; /* of these two, that each row of boxes is reached by: KNOTS from its own number on */
    double gain, offset, low, high, least, threshold, rms_low, rms_high, clip, tail;
    double *sums, *sky_sums;
    int64_t *flagged, *deviant;
    Py_ssize_t n_flagged, n_deviant;
    /* room for a strip: its knots, `apart` numbers from row to row, its sky or what is left of it, and sums */
    Py_ssize_t apart;
    void *knots, *sky, *by_column;
    double *columns;
    unsigned char *n_near;
} Frame;

/* First knot with a weight. */
static int first_knot(const double *weights)
{
    return weights[0] == 0.0;
}

/* A pixel that may stand out: it does, or it is no sky, or neither. The row is given by its start. */
static void judge(Frame *frame, Py_ssize_t start, Py_ssize_t x, const int64_t *rows, const double *weight, double value)
{
    const Py_ssize_t place = start + x;
    double rms = 0.0;
    for (int k = 0; k < NONZERO; k++)
        rms += weight[k] * frame->rms_wide[rows[k] * frame->nx + x];
    rms = rms > frame->rms_low ? rms : frame->rms_low;
    rms = rms < frame->rms_high ? rms : frame->rms_high;
    if (value > frame->threshold * rms)
        frame->flagged[frame->n_flagged++] = place;
    if (!(fabs(value) < frame->clip * rms + frame->tail))
        frame->deviant[frame->n_deviant++] = place;
}

/* Sum of the columns of each box. */
static void add_columns(const Frame *frame, const double *columns, double *sums)
{
    for (Py_ssize_t box = 0, x = 0; box < frame->mesh_x; box++) {
        double sum = 0.0;
        for (const Py_ssize_t end = x + frame->box_x < frame->nx ? x + frame->box_x : frame->nx; x < end; x++)
            sum += columns[x];
        sums[box] = sum;
    }
}

#define REAL float
#define MAGNITUDE fabsf
#define NAMED(name) name##_single
#include "subtraction_strip.h"
#undef REAL
#undef MAGNITUDE
#undef NAMED

#define REAL double
#define MAGNITUDE fabs
#define NAMED(name) name##_double
#include "subtraction_strip.h"
#undef REAL
#undef MAGNITUDE
#undef NAMED

#define LINE 64   /* bytes of a line of the cache */
#define PAGE 4096 /* a processor takes places that lie multiples of it apart for one: no rows of a strip do */

/* All strips of a frame; 0 where there is no memory. */
static int subtract_all(Frame *frame, const Py_buffer *image, const uint16_t *counts)
{
    const size_t row = ((size_t)frame->nx * sizeof(double) + PAGE - 1) / PAGE * PAGE + 5 * LINE;
    char *room = malloc((KNOTS + 4) * row + LINE);
    if (!room)
        return 0;
    frame->apart = (Py_ssize_t)(row / (kind_of(image) == FLOAT32 ? sizeof(float) : sizeof(double)));
    frame->knots = room + LINE - (uintptr_t)room % LINE;
    frame->sky = (char *)frame->knots + KNOTS * row;
    frame->by_column = (char *)frame->sky + row;
    frame->columns = (double *)((char *)frame->by_column + row);
    frame->n_near = (unsigned char *)frame->columns + row;
    for (Py_ssize_t top = 0; top < frame->ny; top += frame->box_y) {
        if (kind_of(image) == FLOAT32)
            subtract_strip_single(frame, top, counts, image->buf);
        else
            subtract_strip_double(frame, top, counts, image->buf);
    }
    free(room);
    return 1;
}

/* Arrays of subtract_sky, in their order. */
enum { IMAGE, COUNTS, WIDE, WEIGHTS, RMS_WIDE, ROWS, LIMITS, SUMS, SKY_SUMS, FLAGGED, DEVIANT, N_ARRAYS };

/* What is wrong with the shapes of the arrays; NULL where they belong together. */
static const char *misfit_of(const Py_buffer *views, Py_ssize_t box_y, Py_ssize_t box_x)
{
    const Py_ssize_t ny = views[IMAGE].shape[0], nx = views[IMAGE].shape[1];
    if (box_y < 1 || box_x < 1 || ny < 1 || nx < 1)
        return "boxes and frames have at least one pixel";
    const Py_ssize_t mesh_y = (ny + box_y - 1) / box_y, mesh_x = (nx + box_x - 1) / box_x;
    const Py_buffer *counts = &views[COUNTS], *wide = &views[WIDE], *rms_wide = &views[RMS_WIDE];
    if ((counts->buf && (counts->shape[0] != ny || counts->shape[1] != nx)) || wide->shape[0] != mesh_y ||
        wide->shape[1] != nx || rms_wide->shape[0] != mesh_y || rms_wide->shape[1] != nx)
        return "counts, wide and rms_wide must fit the image";
    if (views[ROWS].shape[0] != mesh_y + KNOTS - 1)
        return "rows must be four more than there are rows of boxes";
    for (Py_ssize_t i = 0; i < mesh_y + KNOTS - 1; i++)
        if (((const int64_t *)views[ROWS].buf)[i] < 0 || ((const int64_t *)views[ROWS].buf)[i] >= mesh_y)
            return "rows must be those of wide";
    if (views[WEIGHTS].shape[0] != box_y || views[WEIGHTS].shape[1] != KNOTS || views[LIMITS].shape[0] != 10)
        return "weights must have shape (box_y, 5), limits (10,)";
    if (views[SUMS].shape[0] != mesh_y || views[SUMS].shape[1] != mesh_x || views[SKY_SUMS].shape[0] != mesh_y ||
        views[SKY_SUMS].shape[1] != mesh_x)
        return "sums and sky_sums must have the shape of the mesh";
    if (views[FLAGGED].shape[0] < ny * nx || views[DEVIANT].shape[0] < ny * nx)
        return "flagged and deviant must have room for all pixels";
    return NULL;
}

/* A frame as its strips see it. */
static Frame frame_of(const Py_buffer *views, Py_ssize_t box_y, Py_ssize_t box_x)
{
    const double *limits = views[LIMITS].buf;
    const Py_ssize_t nx = views[IMAGE].shape[1];
    return (Frame){
        .ny = views[IMAGE].shape[0], .nx = nx, .box_y = box_y, .box_x = box_x, .mesh_x = (nx + box_x - 1) / box_x,
        .weights = views[WEIGHTS].buf, .wide = views[WIDE].buf, .rms_wide = views[RMS_WIDE].buf,
        .rows = views[ROWS].buf,
        .gain = limits[0], .offset = limits[1], .low = limits[2], .high = limits[3], .least = limits[4],
        .threshold = limits[5], .rms_low = limits[6], .rms_high = limits[7], .clip = limits[8], .tail = limits[9],
        .sums = views[SUMS].buf, .sky_sums = views[SKY_SUMS].buf,
        .flagged = views[FLAGGED].buf, .deviant = views[DEVIANT].buf,
    };
}

PyObject *subtract_sky(PyObject *module, PyObject *arguments)
{
    PyObject *given[N_ARRAYS];
    Py_ssize_t box_y, box_x;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "(OOOOOOOOOOO)nn:subtract_sky", &given[0], &given[1], &given[2], &given[3], &given[4],
                          &given[5], &given[6], &given[7], &given[8], &given[9], &given[10], &box_y, &box_x))
        return NULL;
    const char kind = kind_of_object(given[IMAGE]);
    const Wanted wanted[N_ARRAYS] = {
        {given[IMAGE], 2, kind == FLOAT32 ? FLOAT32 : FLOAT64, WRITE, "image"},
        {given[COUNTS], 2, UINT16, OPTIONAL, "counts"},
        {given[WIDE], 2, FLOAT64, READ, "wide"},
        {given[WEIGHTS], 2, FLOAT64, READ, "weights"},
        {given[RMS_WIDE], 2, FLOAT64, READ, "rms_wide"},
        {given[ROWS], 1, INT64, READ, "rows"},
        {given[LIMITS], 1, FLOAT64, READ, "limits"},
        {given[SUMS], 2, FLOAT64, WRITE, "sums"},
        {given[SKY_SUMS], 2, FLOAT64, WRITE, "sky_sums"},
        {given[FLAGGED], 1, INT64, WRITE, "flagged"},
        {given[DEVIANT], 1, INT64, WRITE, "deviant"},
    };
    Py_buffer views[N_ARRAYS];
    if (open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const char *wrong = misfit_of(views, box_y, box_x);
    int has_room = 1;
    Frame frame = {0};
    if (!wrong) {
        frame = frame_of(views, box_y, box_x);
        Py_BEGIN_ALLOW_THREADS
        has_room = subtract_all(&frame, &views[IMAGE], views[COUNTS].buf);
        Py_END_ALLOW_THREADS
    }
    PyObject *done = release_arrays(views, N_ARRAYS, wrong);
    if (!done)
        return NULL;
    Py_DECREF(done);
    return has_room ? Py_BuildValue("(nn)", frame.n_flagged, frame.n_deviant) : PyErr_NoMemory();
}

#define DEFINE_SUM(name, real)                                                                                         \
    static double name(const real *values, Py_ssize_t n)                                                               \
    {                                                                                                                  \
        double even = 0.0, odd = 0.0;                                                                                  \
        Py_ssize_t i = 0;                                                                                              \
        for (; i + 1 < n; i += 2) {                                                                                    \
            even += (double)values[i];                                                                                 \
            odd += (double)values[i + 1];                                                                              \
        }                                                                                                              \
        const double sum = even + odd + (i < n ? (double)values[i] : 0.0);                                             \
        if (isfinite(sum))                                                                                             \
            return sum;                                                                                                \
        even = 0.0;                                                                                                    \
        for (i = 0; i < n; i++)                                                                                        \
            even += isfinite(values[i]) ? (double)values[i] : 0.0;                                                     \
        return even;                                                                                                   \
    }

/* Sum of the pixels that are numbers; two sums at once take half the time, and are the same bits everywhere. */
DEFINE_SUM(sum_single, float)
DEFINE_SUM(sum_double, double)

/* Stretches lie far apart: so many before it is its turn each is brought into the cache. */
#define AHEAD 8

/* Add a stretch of one row to what is taken from its boxes. */
static void take(const Py_buffer *image, int64_t start, int64_t stop, Py_ssize_t box_y, Py_ssize_t box_x, int64_t *taken,
                 double *light)
{
    const Py_ssize_t nx = image->shape[1], mesh_x = (nx + box_x - 1) / box_x;
    const Py_ssize_t row = (Py_ssize_t)start / nx, end = (Py_ssize_t)stop - row * nx;
    const Py_ssize_t first_box = row / box_y * mesh_x;
    const int is_single = kind_of(image) == FLOAT32;
    const float *single = (const float *)image->buf + row * nx;
    const double *twice = (const double *)image->buf + row * nx;
    for (Py_ssize_t x = (Py_ssize_t)start - row * nx; x < end;) {
        const Py_ssize_t box = x / box_x, edge = (box + 1) * box_x < end ? (box + 1) * box_x : end;
        taken[first_box + box] += edge - x;
        light[first_box + box] += is_single ? sum_single(single + x, edge - x) : sum_double(twice + x, edge - x);
        x = edge;
    }
}

PyObject *take_pixels(PyObject *module, PyObject *arguments)
{
    enum { IMAGE, START, STOP, ALONE, TAKEN, LIGHT, N_ARRAYS };
    PyObject *given[N_ARRAYS];
    Py_ssize_t box_y, box_x;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOOnn:take_pixels", &given[0], &given[1], &given[2], &given[3], &given[4],
                          &given[5], &box_y, &box_x))
        return NULL;
    const Wanted wanted[N_ARRAYS] = {
        {given[IMAGE], 2, kind_of_object(given[IMAGE]) == FLOAT32 ? FLOAT32 : FLOAT64, READ, "image"},
        {given[START], 1, INT64, READ, "start"},
        {given[STOP], 1, INT64, READ, "stop"},
        {given[ALONE], 1, INT64, READ, "alone"},
        {given[TAKEN], 2, INT64, WRITE, "taken"},
        {given[LIGHT], 2, FLOAT64, WRITE, "light"},
    };
    Py_buffer views[N_ARRAYS];
    if (open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_buffer *image = &views[IMAGE];
    const Py_ssize_t ny = image->shape[0], nx = image->shape[1], n = views[START].shape[0];
    const int64_t *start = views[START].buf, *stop = views[STOP].buf, *alone = views[ALONE].buf;
    const char *wrong = NULL;
    if (box_y < 1 || box_x < 1 || nx < 1 || views[STOP].shape[0] != n)
        wrong = "boxes have at least one pixel, and stretches a start and a stop";
    for (int which = TAKEN; which <= LIGHT && !wrong; which++)
        if (views[which].shape[0] != (ny + box_y - 1) / box_y || views[which].shape[1] != (nx + box_x - 1) / box_x)
            wrong = "taken and light must have the shape of the mesh";
    for (Py_ssize_t i = 0; i < n && !wrong; i++)
        if (start[i] < 0 || stop[i] <= start[i] || stop[i] > ny * nx || (stop[i] - 1) / nx != start[i] / nx)
            wrong = "stretches must be parts of one row of the image";
    for (Py_ssize_t i = 0; i < views[ALONE].shape[0] && !wrong; i++)
        if (alone[i] < 0 || alone[i] >= ny * nx)
            wrong = "pixels must be those of the image";
    if (!wrong) {
        Py_BEGIN_ALLOW_THREADS
        Py_ssize_t span = 0;
        for (Py_ssize_t i = 0; i < n; i++) {
            if (i + AHEAD < n)
                FETCH_ROW((const char *)image->buf + start[i + AHEAD] * image->itemsize,
                          (stop[i + AHEAD] - start[i + AHEAD]) * image->itemsize);
            take(image, start[i], stop[i], box_y, box_x, views[TAKEN].buf, views[LIGHT].buf);
        }
        for (Py_ssize_t i = 0; i < views[ALONE].shape[0]; i++) {
            while (span < n && stop[span] <= alone[i])
                span++;
            if (span == n || start[span] > alone[i])
                take(image, alone[i], alone[i] + 1, box_y, box_x, views[TAKEN].buf, views[LIGHT].buf);
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, wrong);
}
