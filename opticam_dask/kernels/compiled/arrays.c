#include "arrays.h"

#include <string.h>

char kind_of(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=')
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
    return 0;
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
