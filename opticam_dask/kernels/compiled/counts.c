/* Pixels of 16 bits as they lie in a FITS file, and the lowest and the highest of them: see counts.py. */

#include "arrays.h"

IN_LANES static void swap_bytes(uint16_t *pixels, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++) /* BZERO = 32768 turns the highest bit over */
        pixels[i] = (uint16_t)(((pixels[i] << 8) | (pixels[i] >> 8)) ^ 0x8000);
}

IN_LANES static void find_extremes(const uint16_t *pixels, Py_ssize_t n, uint16_t *extremes)
{
    uint16_t low = UINT16_MAX, high = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        low = pixels[i] < low ? pixels[i] : low;
        high = pixels[i] > high ? pixels[i] : high;
    }
    extremes[0] = low;
    extremes[1] = high;
}

PyObject *unsigned_counts(PyObject *module, PyObject *argument)
{
    Wanted wanted = {argument, 2, UINT16, WRITE, "pixels"};
    Py_buffer view;
    (void)module;
    if (open_arrays(&wanted, &view, 1) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    swap_bytes(view.buf, view.shape[0] * view.shape[1]);
    Py_END_ALLOW_THREADS
    return release_arrays(&view, 1, NULL);
}

PyObject *extremes(PyObject *module, PyObject *argument)
{
    Wanted wanted = {argument, 2, UINT16, READ, "pixels"};
    Py_buffer view;
    uint16_t found[2];
    (void)module;
    if (open_arrays(&wanted, &view, 1) < 0)
        return NULL;
    const Py_ssize_t n = view.shape[0] * view.shape[1];
    Py_BEGIN_ALLOW_THREADS
    find_extremes(view.buf, n, found);
    Py_END_ALLOW_THREADS
    PyObject *done = release_arrays(&view, 1, n ? NULL : "there must be pixels");
    if (!done)
        return NULL;
    Py_DECREF(done);
    return Py_BuildValue("(ii)", (int)found[0], (int)found[1]);
}
