/* What is worked out for every pixel of the cut-outs of sources: the sky from its mesh, the elliptical radius, and the
 * light at that radius. Operations are those of the form in NumPy in the same order: the same bits. */

#include "arrays.h"

#include <math.h>

/* Spline of a mesh in one window. */
static void zoom_window(const double *knots, Py_ssize_t stride, const double *along_y, Py_ssize_t n_y,
                        const double *along_x, Py_ssize_t n_x, Py_ssize_t size, double *to)
{
    for (Py_ssize_t y = 0; y < size; y++, to += size) {
        for (Py_ssize_t x = 0; x < size; x++)
            to[x] = 0.0;
        for (Py_ssize_t column = 0; column < n_x; column++) {
            double partial = 0.0;
            for (Py_ssize_t row = 0; row < n_y; row++)
                partial += along_y[y * n_y + row] * knots[row * stride + column];
            for (Py_ssize_t x = 0; x < size; x++)
                to[x] += partial * along_x[x * n_x + column];
        }
    }
}

PyObject *zoom_windows(PyObject *module, PyObject *arguments)
{
    enum { KNOTS, FIRST_Y, FIRST_X, ALONG_Y, ALONG_X, WINDOWS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "knots"},     {NULL, 1, INT64, READ, "first_y"},     {NULL, 1, INT64, READ, "first_x"},
        {NULL, 3, FLOAT64, READ, "along_y"},   {NULL, 3, FLOAT64, READ, "along_x"},   {NULL, 3, FLOAT64, WRITE, "windows"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOO:zoom_windows", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &wanted[4].object, &wanted[5].object) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t n = views[WINDOWS].shape[0], size = views[WINDOWS].shape[1];
    const Py_ssize_t n_y = views[ALONG_Y].shape[2], n_x = views[ALONG_X].shape[2];
    const Py_ssize_t rows = views[KNOTS].shape[0], columns = views[KNOTS].shape[1];
    const int64_t *first_y = views[FIRST_Y].buf, *first_x = views[FIRST_X].buf;
    int is_right = views[WINDOWS].shape[2] == size && views[FIRST_Y].shape[0] == n && views[FIRST_X].shape[0] == n;
    for (int i = ALONG_Y; i <= ALONG_X; i++)
        is_right = is_right && views[i].shape[0] == n && views[i].shape[1] == size;
    for (Py_ssize_t i = 0; is_right && i < n; i++)
        is_right = first_y[i] >= 0 && first_x[i] >= 0 && first_y[i] <= rows - n_y && first_x[i] <= columns - n_x;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++)
            zoom_window((const double *)views[KNOTS].buf + first_y[i] * columns + first_x[i], columns,
                        (const double *)views[ALONG_Y].buf + i * size * n_y, n_y,
                        (const double *)views[ALONG_X].buf + i * size * n_x, n_x, size,
                        (double *)views[WINDOWS].buf + i * size * size);
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "windows, weights and knots do not belong together");
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
    if (!PyArg_ParseTuple(arguments, "OOOO:elliptical_radius", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
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
    if (!PyArg_ParseTuple(arguments, "OOOdd:light_at", &wanted[0].object, &wanted[1].object, &wanted[2].object, &edge,
                          &step) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
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
