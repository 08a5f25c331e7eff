/* What is worked out for every pixel of the cut-outs of sources: the sky from its mesh, the elliptical radius, and the
 * light at that radius. Operations are those of the form in NumPy in the same order: the same bits. */

#include "arrays.h"

#include <math.h>
#include <stdlib.h>

#define TAPS 4 /* spline coefficients that reach a pixel along an axis */

/* An axis of a frame: its pixels, those of a box, and the weights (pixel, n_knots + 1) of the spline coefficients. */
typedef struct {
    Py_ssize_t n, box, n_knots;
    const double *weights;
} Axis;

/* The pixel that stands for one along an axis, which may lie beyond the frame. */
static Py_ssize_t inside(const Axis *axis, int64_t pixel)
{
    return pixel < 0 ? 0 : pixel < axis->n ? pixel : axis->n - 1;
}

/* The first coefficient that reaches a pixel of the frame. */
static Py_ssize_t first_knot(const Axis *axis, Py_ssize_t pixel)
{
    return (Py_ssize_t)floor(((double)pixel + 0.5) / (double)axis->box - 0.5) + 1;
}

/* Spline of a mesh in one window, within bounds; `partial` has room for a row of coefficients, and `first` for the first
 * of those that reach each column. */
static void zoom_window(const double *knots, const Axis *axes, const int64_t corner[2], const double bounds[2],
                        Py_ssize_t size, double *partial, Py_ssize_t *first, double *to)
{
    const Axis *along_y = &axes[0], *along_x = &axes[1];
    for (Py_ssize_t x = 0; x < size; x++)
        first[x] = first_knot(along_x, inside(along_x, corner[1] + x));
    const Py_ssize_t left = first[0], right = first[size - 1] + TAPS;
    for (Py_ssize_t y = 0; y < size; y++, to += size) {
        const Py_ssize_t row = inside(along_y, corner[0] + y), low = first_knot(along_y, row);
        const double *weights = along_y->weights + row * (along_y->n_knots + 1) + low;
        for (Py_ssize_t column = left; column < right; column++) {
            partial[column] = 0.0;
            for (int tap = 0; tap < TAPS; tap++)
                partial[column] += weights[tap] * knots[(low + tap) * along_x->n_knots + column];
        }
        for (Py_ssize_t x = 0; x < size; x++) {
            const Py_ssize_t column = inside(along_x, corner[1] + x);
            const double *across = along_x->weights + column * (along_x->n_knots + 1) + first[x];
            double sum = 0.0;
            for (int tap = 0; tap < TAPS; tap++)
                sum += partial[first[x] + tap] * across[tap];
            sum = sum < bounds[0] ? bounds[0] : sum > bounds[1] ? bounds[1] : sum;
            to[x] = row == corner[0] + y && column == corner[1] + x ? sum : (double)NAN;
        }
    }
}

PyObject *zoom_windows(PyObject *module, PyObject *arguments)
{
    enum { KNOTS, ALONG_Y, ALONG_X, Y0, X0, WINDOWS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "knots"}, {NULL, 2, FLOAT64, READ, "along_y"}, {NULL, 2, FLOAT64, READ, "along_x"},
        {NULL, 1, INT64, READ, "y0"},      {NULL, 1, INT64, READ, "x0"},        {NULL, 3, FLOAT64, WRITE, "windows"},
    };
    Py_buffer views[MOST_ARRAYS];
    Py_ssize_t shape[2], box[2];
    double bounds[2];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "(nn)(nn)dd:zoom_windows", &shape[0], &shape[1], &box[0], &box[1],
                   &bounds[0], &bounds[1]) < 0)
        return NULL;
    const Py_ssize_t n = views[WINDOWS].shape[0], size = views[WINDOWS].shape[1];
    int is_right = views[WINDOWS].shape[2] == size && views[Y0].shape[0] == n && views[X0].shape[0] == n;
    Axis axes[2];
    for (int i = 0; i < 2; i++) {
        const Py_buffer *along = &views[ALONG_Y + i];
        axes[i] = (Axis){shape[i], box[i], views[KNOTS].shape[i], along->buf};
        is_right = is_right && box[i] > 0 && shape[i] > 0 && shape[i] <= along->shape[0] &&
                   along->shape[0] == box[i] * (axes[i].n_knots - TAPS) && along->shape[1] == axes[i].n_knots + 1;
    }
    double *partial = is_right ? malloc((size_t)axes[1].n_knots * sizeof *partial) : NULL;
    Py_ssize_t *first = is_right ? malloc((size_t)(size + 1) * sizeof *first) : NULL;
    const int has_room = partial && first;
    if (has_room) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n && size > 0; i++) {
            const int64_t corner[2] = {((const int64_t *)views[Y0].buf)[i], ((const int64_t *)views[X0].buf)[i]};
            zoom_window(views[KNOTS].buf, axes, corner, bounds, size, partial, first, (double *)views[WINDOWS].buf + i * size * size);
        }
        Py_END_ALLOW_THREADS
    }
    free(partial);
    free(first);
    if (is_right && !has_room) {
        release_arrays(views, N_ARRAYS, "");
        return PyErr_NoMemory();
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "windows, weights and knots do not belong together");
}

PyObject *spline_at(PyObject *module, PyObject *arguments)
{
    enum { WIDE, KNOTS, WEIGHTS, PLACES, VALUES, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "wide"},  {NULL, 2, INT64, READ, "knots"},     {NULL, 2, FLOAT64, READ, "weights"},
        {NULL, 1, INT64, READ, "places"}, {NULL, 1, FLOAT64, WRITE, "values"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":spline_at") < 0)
        return NULL;
    const Py_ssize_t n_wide = views[WIDE].shape[0], nx = views[WIDE].shape[1], ny = views[KNOTS].shape[1];
    const Py_ssize_t n = views[PLACES].shape[0];
    const double *wide = views[WIDE].buf, *weights = views[WEIGHTS].buf;
    const int64_t *knots = views[KNOTS].buf, *places = views[PLACES].buf;
    double *values = views[VALUES].buf;
    int is_right = views[KNOTS].shape[0] == TAPS && views[WEIGHTS].shape[0] == TAPS && views[WEIGHTS].shape[1] == ny &&
                   views[VALUES].shape[0] == n && nx > 0;
    for (Py_ssize_t i = 0; is_right && i < TAPS * ny; i++)
        is_right = knots[i] >= 0 && knots[i] < n_wide;
    for (Py_ssize_t i = 0; is_right && i < n; i++)
        is_right = places[i] >= 0 && places[i] < ny * nx;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            const int64_t row = places[i] / nx, column = places[i] - row * nx;
            double sum = 0.0;
            for (int tap = 0; tap < TAPS; tap++)
                sum += weights[tap * ny + row] * wide[knots[tap * ny + row] * nx + column];
            values[i] = sum;
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "places, knots and weights do not belong together");
}

PyObject *elliptical_radius(PyObject *module, PyObject *arguments)
{
    enum { DX, DY, FORMS, RADIUS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "dx"},
        {NULL, 2, FLOAT64, READ, "dy"},
        {NULL, 2, FLOAT64, READ, "forms"},
        {NULL, 3, FLOAT64, WRITE, "radius"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":elliptical_radius") < 0)
        return NULL;
    const Py_ssize_t n = views[RADIUS].shape[0], size = views[RADIUS].shape[1];
    int is_right = views[RADIUS].shape[2] == size && views[FORMS].shape[0] == n && views[FORMS].shape[1] == 4;
    for (int i = DX; i <= DY; i++)
        is_right = is_right && views[i].shape[0] == n && views[i].shape[1] == size;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        double *to = views[RADIUS].buf;
        for (Py_ssize_t i = 0; i < n; i++) {
            const double *form = (const double *)views[FORMS].buf + 4 * i; /* cosine, sine, semimajor, semiminor */
            const double cosine = form[0], sine = form[1], semimajor = form[2], semiminor = form[3];
            const double *dx = (const double *)views[DX].buf + i * size, *dy = (const double *)views[DY].buf + i * size;
            for (Py_ssize_t y = 0; y < size; y++, to += size) {
                const double dy_sine = dy[y] * sine, dy_cosine = dy[y] * cosine;
                for (Py_ssize_t x = 0; x < size; x++) {
                    const double along = (dx[x] * cosine + dy_sine) / semimajor;
                    const double across = (dy_cosine - dx[x] * sine) / semiminor;
                    to[x] = sqrt(along * along + across * across);
                }
            }
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "offsets, forms and radii do not belong together");
}

PyObject *light_at(PyObject *module, PyObject *arguments)
{
    enum { TABLE, RADIUS, LIGHT, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 1, FLOAT64, READ, "table"},
        {NULL, 1, FLOAT64, READ, "radius"},
        {NULL, 1, FLOAT64, WRITE, "light"},
    };
    Py_buffer views[MOST_ARRAYS];
    double edge, step;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "dd:light_at", &edge, &step) < 0)
        return NULL;
    const Py_ssize_t n = views[LIGHT].shape[0], n_table = views[TABLE].shape[0];
    const int is_right = views[RADIUS].shape[0] == n && step > 0.0 && edge >= 0.0 && edge / step < (double)(n_table - 1);
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        const double *table = views[TABLE].buf, *radius = views[RADIUS].buf;
        double *light = views[LIGHT].buf;
        for (Py_ssize_t i = 0; i < n; i++) {
            double rho = radius[i] < edge ? radius[i] : edge; /* the edge for NaN too */
            rho = (rho > 0.0 ? rho : 0.0) / step;
            const Py_ssize_t below = (Py_ssize_t)rho;
            light[i] = table[below] + (rho - (double)below) * (table[below + 1] - table[below]);
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "the table must reach beyond the edge, and light have a place for each radius");
}

/* ---------------------------------------------------------------- shares of pixels in a disk */

/* Edges of the pixels along both axes (x, y), and for these: circle and until (areas below the circle up to the edge along
 * x, and up to where the line of the edge along y meets the circle), and that place. */
enum { DISK_X, DISK_Y, DISK_CIRCLE, DISK_MEETS, DISK_UNTIL, N_DISK };

static double sign_of(double value)
{
    return value > 0.0 ? 1.0 : value < 0.0 ? -1.0 : value;
}

/* Signed area of the disk between the axes and the edges of one row: up to each edge along x. */
APART IN_LANES static void area_below(const double *restrict x, const double *restrict signs, const double *restrict circle,
                                      double y, double meets, double until, Py_ssize_t n, double *restrict area)
{
    const double height = fabs(y), beyond = height * meets, sign = sign_of(y);
    for (Py_ssize_t i = 0; i < n; i++) {
        const double right = fabs(x[i]), inside = height * right, outside = beyond + circle[i] - until;
        area[i] = (right <= meets ? inside : outside) * signs[i] * sign;
    }
}

/* Shares of one row of pixels, between the areas of its two edges. */
APART IN_LANES static void shares_between(const double *restrict above, const double *restrict below, double least, Py_ssize_t n,
                                          double *restrict share)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        const double inside = (above[i + 1] - below[i + 1]) - (above[i] - below[i]), known = inside > least ? inside : 0.0;
        share[i] = known < 1.0 ? known : 1.0;
    }
}

PyObject *disk_shares(PyObject *module, PyObject *arguments)
{
    Wanted wanted[2] = {{NULL, 3, FLOAT64, READ, "edges"}, {NULL, 3, FLOAT64, WRITE, "shares"}};
    Py_buffer views[2];
    double least;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOd:disk_shares", &wanted[0].object, &wanted[1].object, &least) ||
        open_arrays(wanted, views, 2) < 0)
        return NULL;
    const Py_ssize_t n = views[1].shape[0], size = views[1].shape[1], m = size + 1;
    if (views[0].shape[0] != N_DISK || views[0].shape[1] != n || views[0].shape[2] != m || views[1].shape[2] != size)
        return release_arrays(views, 2, "edges must have shape (5, n, size + 1), shares (n, size, size)");
    double *room = room_for(3 * m, views, 2);
    if (!room)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *of[N_DISK];
        for (int k = 0; k < N_DISK; k++)
            of[k] = (const double *)views[0].buf + (k * n + i) * m;
        double *signs = room + 2 * m, *share = (double *)views[1].buf + i * size * size;
        for (Py_ssize_t x = 0; x < m; x++)
            signs[x] = sign_of(of[DISK_X][x]);
        for (Py_ssize_t y = 0; y < m; y++) {
            double *area = room + y % 2 * m;
            area_below(of[DISK_X], signs, of[DISK_CIRCLE], of[DISK_Y][y], of[DISK_MEETS][y], of[DISK_UNTIL][y], m, area);
            if (y)
                shares_between(area, room + (y - 1) % 2 * m, least, size, share + (y - 1) * size);
        }
    }
    Py_END_ALLOW_THREADS
    free(room);
    return release_arrays(views, 2, NULL);
}
