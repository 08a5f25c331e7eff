/* Least squares in windows of boxes of the sky: see sky_level.py for what is computed, and for the form in NumPy.
 * Several windows are fitted beside each other, so that loops over them become vector instructions. */

#include "arrays.h"

#include <math.h>

#define LANES 8
#define MOST_TERMS 6
#define MOST_BOXES 81

typedef struct {
    Py_ssize_t n_boxes, n_windows; /* boxes of a window, windows */
    int n_terms;
    const double *values, *weights, *kernel, *basis;
    double ridge;
} Windows;

/* Solve the equations of each lane by elimination. */
static void solve(double normal[MOST_TERMS][MOST_TERMS][LANES], double right[MOST_TERMS][LANES], int n_terms)
{
    for (int pivot = 0; pivot < n_terms; pivot++) {
        for (int row = pivot + 1; row < n_terms; row++) {
            double factor[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                factor[lane] = normal[row][pivot][lane] / normal[pivot][pivot][lane];
                right[row][lane] -= factor[lane] * right[pivot][lane];
            }
            for (int column = pivot; column < n_terms; column++)
                for (int lane = 0; lane < LANES; lane++)
                    normal[row][column][lane] -= factor[lane] * normal[pivot][column][lane];
        }
    }
    for (int row = n_terms - 1; row >= 0; row--)
        for (int lane = 0; lane < LANES; lane++) {
            double left = right[row][lane];
            for (int column = row + 1; column < n_terms; column++)
                left -= normal[row][column][lane] * right[column][lane];
            right[row][lane] = left / normal[row][row][lane];
        }
}

/* Fit the windows from `first` on; the last are repeated where there are no more. Gives the value in the middle, the
 * weighted sum of squared residuals, the boxes that count, and, where there is room for them, the fit at all boxes. */
static void fit_lanes(const Windows *windows, Py_ssize_t first, double *middle, double *square, double *count,
                      double *model)
{
    const int n_terms = windows->n_terms;
    const Py_ssize_t n = windows->n_windows, n_lanes = n - first < LANES ? n - first : LANES;
    double values[MOST_BOXES][LANES], weights[MOST_BOXES][LANES];
    double normal[MOST_TERMS][MOST_TERMS][LANES] = {{{0.0}}}, right[MOST_TERMS][LANES] = {{0.0}};
    double mean[LANES] = {0.0}, squares[LANES] = {0.0}, counts[LANES] = {0.0};
    for (Py_ssize_t box = 0; box < windows->n_boxes; box++) {
        for (Py_ssize_t lane = 0; lane < LANES; lane++) {
            const Py_ssize_t at = box * n + first + (lane < n_lanes ? lane : n_lanes - 1);
            values[box][lane] = windows->values[at];
            weights[box][lane] = windows->kernel[box] * windows->weights[at];
            counts[lane] += windows->weights[at] > 0.0 ? windows->kernel[box] : 0.0;
        }
        for (int t = 0; t < n_terms; t++)
            for (int u = 0; u <= t; u++) {
                const double product = windows->basis[t * windows->n_boxes + box] * windows->basis[u * windows->n_boxes + box];
                for (int lane = 0; lane < LANES; lane++)
                    normal[t][u][lane] += product * weights[box][lane];
            }
        for (int lane = 0; lane < LANES; lane++)
            mean[lane] += weights[box][lane] * values[box][lane];
    }
    for (int t = 0; t < n_terms; t++)
        for (int lane = 0; lane < LANES; lane++) {
            for (int u = 0; u < t; u++)
                normal[u][t][lane] = normal[t][u][lane];
            normal[t][t][lane] += t ? windows->ridge : 0.0;
        }
    for (int lane = 0; lane < LANES; lane++) {
        normal[0][0][lane] = normal[0][0][lane] <= 0.0 ? 1.0 : normal[0][0][lane];
        mean[lane] /= normal[0][0][lane]; /* so that the ridge does not pull at the level of the sky */
    }
    for (Py_ssize_t box = 0; box < windows->n_boxes; box++)
        for (int t = 0; t < n_terms; t++)
            for (int lane = 0; lane < LANES; lane++)
                right[t][lane] += windows->basis[t * windows->n_boxes + box] * (weights[box][lane] * (values[box][lane] - mean[lane]));
    solve(normal, right, n_terms);
    for (int lane = 0; lane < LANES; lane++)
        right[0][lane] += mean[lane];
    for (Py_ssize_t box = 0; box < windows->n_boxes; box++) {
        double fitted[LANES] = {0.0};
        for (int t = 0; t < n_terms; t++)
            for (int lane = 0; lane < LANES; lane++)
                fitted[lane] += windows->basis[t * windows->n_boxes + box] * right[t][lane];
        for (int lane = 0; lane < LANES; lane++) {
            const double residual = values[box][lane] - fitted[lane];
            squares[lane] += weights[box][lane] * residual * residual;
        }
        for (Py_ssize_t lane = 0; model && lane < n_lanes; lane++)
            model[box * n + first + lane] = fitted[lane];
        if (box == windows->n_boxes / 2)
            for (Py_ssize_t lane = 0; lane < n_lanes; lane++)
                middle[first + lane] = fitted[lane];
    }
    for (Py_ssize_t lane = 0; lane < n_lanes; lane++) {
        square[first + lane] = squares[lane];
        count[first + lane] = counts[lane];
    }
}

PyObject *fit_windows(PyObject *module, PyObject *arguments)
{
    enum { VALUES, WEIGHTS, KERNEL, BASIS, FOUND, MODEL, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "values"}, {NULL, 2, FLOAT64, READ, "weights"}, {NULL, 1, FLOAT64, READ, "kernel"},
        {NULL, 2, FLOAT64, READ, "basis"},  {NULL, 2, FLOAT64, WRITE, "found"},  {NULL, 2, FLOAT64, OPTIONAL, "model"},
    };
    Py_buffer views[MOST_ARRAYS];
    double ridge;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOOd:fit_windows", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &wanted[4].object, &wanted[5].object, &ridge) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t n_boxes = views[VALUES].shape[0], n = views[VALUES].shape[1], n_terms = views[BASIS].shape[0];
    int is_right = n_boxes <= MOST_BOXES && n_terms >= 1 && n_terms <= MOST_TERMS && views[BASIS].shape[1] == n_boxes &&
                   views[WEIGHTS].shape[0] == n_boxes && views[WEIGHTS].shape[1] == n &&
                   views[KERNEL].shape[0] == n_boxes && views[FOUND].shape[0] == 3 && views[FOUND].shape[1] == n;
    if (views[MODEL].buf)
        is_right = is_right && views[MODEL].shape[0] == n_boxes && views[MODEL].shape[1] == n && !views[MODEL].readonly;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        const Windows windows = {n_boxes, n, (int)n_terms, views[VALUES].buf, views[WEIGHTS].buf, views[KERNEL].buf,
                                 views[BASIS].buf, ridge};
        double *found = views[FOUND].buf;
        for (Py_ssize_t first = 0; first < n; first += LANES)
            fit_lanes(&windows, first, found, found + n, found + 2 * n, views[MODEL].buf);
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "values, weights, kernel and basis do not belong together");
}
