/* Connected components of a graph, numbered in the order of their first nodes: see segments.py. */

#include "arrays.h"
#include "sums.h"

PyObject *connected_components(PyObject *module, PyObject *arguments)
{
    enum { ONE, OTHER, NUMBERS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 1, INT64, READ, "one"},
        {NULL, 1, INT64, READ, "other"},
        {NULL, 1, INT64, WRITE, "numbers"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":connected_components") < 0)
        return NULL;
    const Py_ssize_t n_edges = views[ONE].shape[0], n_nodes = views[NUMBERS].shape[0];
    const int64_t *one = views[ONE].buf, *other = views[OTHER].buf;
    int64_t *numbers = views[NUMBERS].buf, n_components = 0;
    int is_right = views[OTHER].shape[0] == n_edges;
    for (Py_ssize_t i = 0; is_right && i < n_edges; i++)
        is_right = one[i] >= 0 && one[i] < n_nodes && other[i] >= 0 && other[i] < n_nodes;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t node = 0; node < n_nodes; node++)
            numbers[node] = node; /* the node that it is joined to, never a later one */
        for (Py_ssize_t i = 0; i < n_edges; i++) {
            const int64_t a = first_of(numbers, one[i]), b = first_of(numbers, other[i]);
            numbers[a > b ? a : b] = a > b ? b : a;
        }
        /* earlier nodes have their numbers already when a later one is joined to them */
        for (Py_ssize_t node = 0; node < n_nodes; node++)
            numbers[node] = numbers[node] == node ? n_components++ : numbers[numbers[node]];
        Py_END_ALLOW_THREADS
    }
    PyObject *done = release_arrays(views, N_ARRAYS, is_right ? NULL : "edges must join nodes that there are");
    if (!done)
        return NULL;
    Py_DECREF(done);
    return PyLong_FromLongLong(n_components);
}
