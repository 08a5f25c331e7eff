#include "arrays.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* How a format may name the order of this machine's bytes; values that Zarr read from afar name it so. */
static const char OWN_ORDER = PY_BIG_ENDIAN ? '>' : '<';

char kind_of(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == OWN_ORDER)
        format++;
    if (format[0] == '\0' || format[1] != '\0')
        return 0; /* a structure, or bytes in another order than this machine's */
    if (format[0] == 'f' && view->itemsize == 4)
        return FLOAT32;
    if (format[0] == 'd' && view->itemsize == 8)
        return FLOAT64;
    if (strchr("lq", format[0]) && view->itemsize == 8)
        return INT64;
    if (format[0] == '?' && view->itemsize == 1)
        return BOOL;
    if (format[0] == 'H' && view->itemsize == 2)
        return UINT16;
    return 0;
}

char kind_of_object(PyObject *object)
{
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
        PyErr_Clear();
        return 0;
    }
    const char kind = kind_of(&view);
    PyBuffer_Release(&view);
    return kind;
}

int open_array(PyObject *object, Py_buffer *view, int ndim, char kind, int access, const char *name)
{
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (access == WRITE ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags) < 0)
        return -1;
    if (view->ndim != ndim || kind_of(view) != kind) {
        PyErr_Format(PyExc_TypeError, "%s must be a native array of %d dimensions and kind '%c', got %d and '%s'", name,
                     ndim, kind, view->ndim, view->format ? view->format : "B");
        PyBuffer_Release(view);
        return -1;
    }
    if ((uintptr_t)view->buf % (uintptr_t)view->itemsize) {
        PyErr_Format(PyExc_TypeError, "%s must be aligned", name);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

int open_arrays(const Wanted *wanted, Py_buffer *views, int n)
{
    for (int i = 0; i < n; i++) {
        const Wanted *array = &wanted[i];
        if (array->access == OPTIONAL && array->object == Py_None) {
            memset(&views[i], 0, sizeof views[i]);
            continue;
        }
        if (open_array(array->object, &views[i], array->ndim, array->kind, array->access, array->name) < 0) {
            while (i > 0)
                PyBuffer_Release(&views[--i]);
            return -1;
        }
    }
    return 0;
}

int open_given(PyObject *arguments, Wanted *wanted, Py_buffer *views, int n, const char *rest, ...)
{
    const Py_ssize_t n_given = PyTuple_Size(arguments);
    if (n_given < n) {
        PyErr_Format(PyExc_TypeError, "%s takes %d arrays, got %d", strchr(rest, ':') + 1, n, (int)n_given);
        return -1;
    }
    for (int i = 0; i < n; i++)
        wanted[i].object = PyTuple_GetItem(arguments, i);
    PyObject *others = PyTuple_GetSlice(arguments, n, n_given);
    va_list targets;
    va_start(targets, rest);
    const int is_parsed = others && PyArg_VaParse(others, rest, targets);
    va_end(targets);
    Py_XDECREF(others);
    return is_parsed ? open_arrays(wanted, views, n) : -1;
}

double *room_for(Py_ssize_t n, Py_buffer *views, int n_arrays)
{
    double *room = malloc((size_t)(n + 1) * sizeof *room);
    if (!room) {
        release_arrays(views, n_arrays, NULL);
        PyErr_NoMemory();
    }
    return room;
}

PyObject *release_arrays(Py_buffer *views, int n, const char *wrong)
{
    while (n > 0)
        PyBuffer_Release(&views[--n]);
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, wrong);
        return NULL;
    }
    Py_RETURN_NONE;
}
