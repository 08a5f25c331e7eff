/* Square windows of an image, in double precision: see photometry.py for the form in NumPy. */

#include "arrays.h"

#include <math.h>
#include <string.h>

/* Copy a row of pixels of one kind. */
#define DEFINE_COPY(name, type)                                                                                        \
    IN_LANES static void name(const void *image, Py_ssize_t from, Py_ssize_t n, double *to)                            \
    {                                                                                                                  \
        const type *pixels = (const type *)image + from;                                                               \
        for (Py_ssize_t i = 0; i < n; i++)                                                                             \
            to[i] = (double)pixels[i];                                                                                 \
    }

DEFINE_COPY(copy_uint16, uint16_t)
DEFINE_COPY(copy_float32, float)
DEFINE_COPY(copy_float64, double)
DEFINE_COPY(copy_bool, unsigned char)

/* One window, with NaN beyond the image. */
static void cut(const Py_buffer *image, char kind, int64_t x0, int64_t y0, Py_ssize_t size, double *window)
{
    const Py_ssize_t ny = image->shape[0], nx = image->shape[1];
    const Py_ssize_t left = x0 < 0 ? (x0 < -size ? size : (Py_ssize_t)-x0) : 0;
    const Py_ssize_t right = x0 > nx - size ? (x0 > nx ? 0 : nx - (Py_ssize_t)x0) : size;
    for (Py_ssize_t y = 0; y < size; y++, window += size) {
        const int is_inside = y0 + y >= 0 && y0 + y < ny && left < right;
        for (Py_ssize_t x = 0; x < size; x++)
            if (!is_inside || x < left || x >= right)
                window[x] = (double)NAN;
        if (!is_inside)
            continue;
        const Py_ssize_t from = (Py_ssize_t)(y0 + y) * nx + (Py_ssize_t)x0 + left, n = right - left;
        if (kind == UINT16)
            copy_uint16(image->buf, from, n, window + left);
        else if (kind == FLOAT32)
            copy_float32(image->buf, from, n, window + left);
        else if (kind == FLOAT64)
            copy_float64(image->buf, from, n, window + left);
        else
            copy_bool(image->buf, from, n, window + left);
    }
}

PyObject *cut_out(PyObject *module, PyObject *arguments)
{
    Wanted wanted[4] = {{NULL, 2, FLOAT64, READ, "image"}, {NULL, 1, INT64, READ, "x0"}, {NULL, 1, INT64, READ, "y0"},
                        {NULL, 3, FLOAT64, WRITE, "windows"}};
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOO:cut_out", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object))
        return NULL;
    const char kind = kind_of_object(wanted[0].object);
    wanted[0].kind = kind == UINT16 || kind == FLOAT32 || kind == BOOL ? kind : FLOAT64;
    if (open_arrays(wanted, views, 4) < 0)
        return NULL;
    const Py_ssize_t n = views[3].shape[0], size = views[3].shape[1];
    const int is_right = views[1].shape[0] == n && views[2].shape[0] == n && views[3].shape[2] == size;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++)
            cut(&views[0], wanted[0].kind, ((const int64_t *)views[1].buf)[i], ((const int64_t *)views[2].buf)[i], size,
                (double *)views[3].buf + i * size * size);
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, 4, is_right ? NULL : "corners and windows do not belong together");
}

PyObject *inner_windows(PyObject *module, PyObject *arguments)
{
    enum { WINDOWS, X, Y, INNER, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 3, FLOAT64, READ, "windows"}, {NULL, 1, INT64, READ, "x"}, {NULL, 1, INT64, READ, "y"},
                               {NULL, 3, FLOAT64, WRITE, "inner"}};
    Py_buffer views[N_ARRAYS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOO:inner_windows", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object))
        return NULL;
    wanted[WINDOWS].kind = wanted[INNER].kind = kind_of_object(wanted[WINDOWS].object) == BOOL ? BOOL : FLOAT64;
    if (open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t n = views[INNER].shape[0], size = views[INNER].shape[1], wide = views[WINDOWS].shape[1];
    const int64_t *x = views[X].buf, *y = views[Y].buf;
    int is_right = views[WINDOWS].shape[0] == n && views[X].shape[0] == n && views[Y].shape[0] == n &&
                   views[WINDOWS].shape[2] == wide && views[INNER].shape[2] == size;
    for (Py_ssize_t i = 0; i < n && is_right; i++)
        is_right = x[i] >= 0 && y[i] >= 0 && x[i] + size <= wide && y[i] + size <= wide;
    const size_t row = (size_t)(size * views[INNER].itemsize);
    const Py_ssize_t item = views[INNER].itemsize;
    for (Py_ssize_t i = 0; i < n && is_right; i++) {
        const char *from = (const char *)views[WINDOWS].buf + ((i * wide + (Py_ssize_t)y[i]) * wide + (Py_ssize_t)x[i]) * item;
        char *to = (char *)views[INNER].buf + i * size * size * item;
        for (Py_ssize_t line = 0; line < size; line++, from += wide * item, to += row)
            memcpy(to, from, row);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "inner windows must lie in their windows");
}
