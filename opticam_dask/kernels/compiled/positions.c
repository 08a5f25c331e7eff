/* Work on lists of positions: pairs that belong together, and the pixels of disks; and medians of the boxes of a mesh.
 * See photometry.py, subtraction.py and background.py for the forms in NumPy. */

#include "arrays.h"
#include "sums.h"

typedef struct {
    double away;
    int64_t one, other;
} Pair;

static int by_distance(const void *first, const void *second)
{
    const Pair *a = first, *b = second;
    if (a->away != b->away)
        return a->away < b->away ? -1 : 1;
    if (a->one != b->one)
        return a->one < b->one ? -1 : 1;
    return (a->other > b->other) - (a->other < b->other);
}

/* Pairs of positions (n, 2) and (m, 2) no further apart than `reach`; NaN is near nothing. Their number. */
static Py_ssize_t find_pairs(const double *one, Py_ssize_t n, const double *other, Py_ssize_t m, double reach, Pair *pairs)
{
    Py_ssize_t n_pairs = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        for (Py_ssize_t j = 0; j < m; j++) {
            const double dx = one[2 * i] - other[2 * j], dy = one[2 * i + 1] - other[2 * j + 1];
            const double square = dx * dx + dy * dy;
            if (!(square <= 1.0001 * reach * reach))
                continue; /* a root takes longer than all the rest */
            const double away = sqrt(square);
            if (!(away <= reach))
                continue;
            if (pairs)
                pairs[n_pairs] = (Pair){away, i, j};
            n_pairs++;
        }
    return n_pairs;
}

PyObject *match_positions(PyObject *module, PyObject *arguments)
{
    enum { ONE, OTHER, MATCHED, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "one"},
        {NULL, 2, FLOAT64, READ, "other"},
        {NULL, 1, INT64, WRITE, "matched"},
    };
    Py_buffer views[MOST_ARRAYS];
    double reach;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "d:match_positions", &reach) < 0)
        return NULL;
    const Py_ssize_t n = views[ONE].shape[0], m = views[OTHER].shape[0];
    const double *one = views[ONE].buf, *other = views[OTHER].buf;
    int64_t *matched = views[MATCHED].buf;
    if (views[ONE].shape[1] != 2 || views[OTHER].shape[1] != 2 || views[MATCHED].shape[0] != n)
        return release_arrays(views, N_ARRAYS, "positions must have two coordinates, and each of the first a match");
    int has_room;
    Py_BEGIN_ALLOW_THREADS
    const Py_ssize_t n_pairs = find_pairs(one, n, other, m, reach, NULL);
    Pair *pairs = malloc((size_t)(n_pairs + 1) * sizeof *pairs);
    char *is_taken = calloc((size_t)(m + 1), 1);
    has_room = pairs && is_taken;
    for (Py_ssize_t i = 0; i < n; i++)
        matched[i] = -1;
    if (has_room) {
        find_pairs(one, n, other, m, reach, pairs);
        qsort(pairs, (size_t)n_pairs, sizeof *pairs, by_distance);
    }
    for (Py_ssize_t i = 0; has_room && i < n_pairs; i++)
        if (matched[pairs[i].one] < 0 && !is_taken[pairs[i].other]) {
            matched[pairs[i].one] = pairs[i].other;
            is_taken[pairs[i].other] = 1;
        }
    free(pairs);
    free(is_taken);
    Py_END_ALLOW_THREADS
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    return has_room ? done : (Py_XDECREF(done), PyErr_NoMemory());
}

PyObject *near_pairs(PyObject *module, PyObject *arguments)
{
    Wanted wanted = {NULL, 2, FLOAT64, READ, "xy"};
    Py_buffer view;
    double reach;
    (void)module;
    if (open_given(arguments, &wanted, &view, 1, "d:near_pairs", &reach) < 0)
        return NULL;
    const Py_ssize_t n = view.shape[0];
    const double *xy = view.buf;
    if (view.shape[1] != 2)
        return release_arrays(&view, 1, "positions must have two coordinates");
    int64_t *pairs = malloc((size_t)(n * n + 1) * sizeof *pairs);
    Py_ssize_t n_found = 0;
    for (Py_ssize_t i = 0; pairs && i < n; i++)
        for (Py_ssize_t j = i + 1; j < n; j++) {
            const double dx = xy[2 * i] - xy[2 * j], dy = xy[2 * i + 1] - xy[2 * j + 1];
            if (dx * dx + dy * dy <= reach * reach) {
                pairs[n_found++] = i;
                pairs[n_found++] = j;
            }
        }
    PyObject *done = release_arrays(&view, 1, NULL);
    Py_XDECREF(done);
    if (!pairs)
        return PyErr_NoMemory();
    PyObject *bytes = PyByteArray_FromStringAndSize((const char *)pairs, n_found * (Py_ssize_t)sizeof *pairs);
    free(pairs);
    return bytes;
}

PyObject *median(PyObject *module, PyObject *argument)
{
    Wanted wanted = {argument, 1, FLOAT64, READ, "values"};
    Py_buffer view;
    (void)module;
    if (open_arrays(&wanted, &view, 1) < 0)
        return NULL;
    const Py_ssize_t n = view.shape[0];
    double *values = malloc((size_t)(n + 1) * sizeof *values), found = (double)NAN;
    if (values) {
        memcpy(values, view.buf, (size_t)n * sizeof *values);
        found = median_of(values, n);
        free(values);
    }
    PyObject *done = release_arrays(&view, 1, NULL);
    Py_XDECREF(done);
    return values ? PyFloat_FromDouble(found) : PyErr_NoMemory();
}

PyObject *nearest_distances(PyObject *module, PyObject *arguments)
{
    enum { ONE, OTHER, AWAY, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "one"},
        {NULL, 2, FLOAT64, READ, "other"},
        {NULL, 1, FLOAT64, WRITE, "away"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":nearest_distances") < 0)
        return NULL;
    const Py_ssize_t n = views[ONE].shape[0], m = views[OTHER].shape[0];
    const double *one = views[ONE].buf, *other = views[OTHER].buf;
    const int is_right = views[ONE].shape[1] == 2 && views[OTHER].shape[1] == 2 && views[AWAY].shape[0] == n;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            double least = INFINITY;
            for (Py_ssize_t j = 0; j < m; j++) {
                const double dx = one[2 * i] - other[2 * j], dy = one[2 * i + 1] - other[2 * j + 1];
                const double square = dx * dx + dy * dy;
                least = square < least ? square : least;
            }
            ((double *)views[AWAY].buf)[i] = sqrt(least);
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "positions must have two coordinates, and each of the first a distance");
}

PyObject *half_sample_mode(PyObject *module, PyObject *argument)
{
    Wanted wanted = {argument, 1, FLOAT64, READ, "values"};
    Py_buffer view;
    (void)module;
    if (open_arrays(&wanted, &view, 1) < 0)
        return NULL;
    const double *from = view.buf;
    Py_ssize_t n = 0;
    double mode = (double)NAN, *sorted = malloc((size_t)(view.shape[0] + 1) * sizeof *sorted), *values = sorted;
    for (Py_ssize_t i = 0; sorted && i < view.shape[0]; i++)
        if (isfinite(from[i]))
            sorted[n++] = from[i];
    if (sorted)
        qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    while (n > 3) {
        const Py_ssize_t half = (n + 1) / 2, last = n - half;
        Py_ssize_t start = 0;
        for (Py_ssize_t i = 1; i <= last; i++)
            if (values[i + half - 1] - values[i] < values[start + half - 1] - values[start])
                start = i;
        values += start;
        n = half;
    }
    if (n == 3 && values[1] - values[0] != values[2] - values[1]) {
        values += values[1] - values[0] < values[2] - values[1] ? 0 : 1;
        n = 2;
    }
    if (n == 3)
        mode = (values[0] + values[1] + values[2]) / 3.0;
    else if (n > 0)
        mode = n == 2 ? (values[0] + values[1]) / 2.0 : values[0];
    PyObject *done = release_arrays(&view, 1, NULL);
    Py_XDECREF(done);
    if (!sorted)
        return PyErr_NoMemory();
    free(sorted);
    return PyFloat_FromDouble(mode);
}

typedef struct {
    int64_t start, stop;
} Stretch;

/* Stretch of a disk in row y of a frame that is nx wide; it ends where it starts when the disk has no pixel there. */
static Stretch cut_disk(double x, double middle, double radius, int64_t y, int64_t nx)
{
    const double away = (double)y - middle, square = radius * radius - away * away;
    if (!(square >= 0.0))
        return (Stretch){y * nx, y * nx};
    const double half = sqrt(square);
    int64_t left = (int64_t)ceil(x - half), right = (int64_t)floor(x + half) + 1;
    left = left > 0 ? left : 0;
    right = right < nx ? right : nx;
    return left < right ? (Stretch){y * nx + left, y * nx + right} : (Stretch){y * nx, y * nx};
}

/* Go through the stretches of all disks in a frame (ny, nx), one of each row of each disk that has pixels. Without
 * `found` they are counted: next[y + 1] is then their number in row y. With it they are put in order: each to its row,
 * whose next place is next[y], and there behind those that begin before it. Rows have few of them. */
static void cut_disks(const double *xy, const double *radius, Py_ssize_t n, int64_t ny, int64_t nx, int64_t *next,
                      const int64_t *first, Stretch *found)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        const int64_t reach = (int64_t)floor(radius[i]) + 1, middle = (int64_t)rint(xy[2 * i + 1]);
        const int64_t bottom = middle - reach > 0 ? middle - reach : 0;
        for (int64_t y = bottom; y <= middle + reach && y < ny; y++) {
            const Stretch stretch = cut_disk(xy[2 * i], xy[2 * i + 1], radius[i], y, nx);
            if (stretch.start == stretch.stop)
                continue;
            if (!found) {
                next[y + 1]++;
                continue;
            }
            int64_t at = next[y]++;
            for (; at > first[y] && found[at - 1].start > stretch.start; at--)
                found[at] = found[at - 1];
            found[at] = stretch;
        }
    }
}

/* Stretches of all disks in the order of their beginnings, to be freed; their number. NULL where there is no memory. */
static Stretch *sorted_stretches(const double *xy, const double *radius, Py_ssize_t n, int64_t ny, int64_t nx,
                                 Py_ssize_t *n_found)
{
    int64_t *first = calloc((size_t)(2 * (ny + 1)), sizeof *first);
    if (!first)
        return NULL;
    int64_t *next = first + ny + 1;
    cut_disks(xy, radius, n, ny, nx, first, NULL, NULL);
    for (int64_t y = 0; y < ny; y++)
        first[y + 1] += first[y];
    memcpy(next, first, (size_t)(ny + 1) * sizeof *next);
    Stretch *found = malloc((size_t)(first[ny] + 1) * sizeof *found);
    if (found)
        cut_disks(xy, radius, n, ny, nx, next, first, found);
    *n_found = (Py_ssize_t)first[ny];
    free(first);
    return found;
}

/* Join stretches, in the order of their beginnings, that touch or overlap within a row. Their number. */
static Py_ssize_t join_stretches(Stretch *stretches, Py_ssize_t n, int64_t nx)
{
    Py_ssize_t n_joined = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Stretch *last = n_joined ? &stretches[n_joined - 1] : stretches;
        const int64_t start = stretches[i].start;
        if (n_joined && (start < last->stop || (start == last->stop && start % nx)))
            last->stop = stretches[i].stop > last->stop ? stretches[i].stop : last->stop;
        else
            stretches[n_joined++] = stretches[i];
    }
    return n_joined;
}

PyObject *disk_stretches(PyObject *module, PyObject *arguments)
{
    enum { XY, RADIUS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 2, FLOAT64, READ, "xy"}, {NULL, 1, FLOAT64, READ, "radius"}};
    Py_buffer views[MOST_ARRAYS];
    long long ny, nx;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "LL:disk_stretches", &ny, &nx) < 0)
        return NULL;
    const Py_ssize_t n = views[RADIUS].shape[0];
    const double *xy = views[XY].buf, *radius = views[RADIUS].buf;
    int is_right = views[XY].shape[0] == n && views[XY].shape[1] == 2 && ny > 0 && nx > 0;
    for (Py_ssize_t i = 0; is_right && i < n; i++)
        is_right = fabs(xy[2 * i]) < 1e9 && fabs(xy[2 * i + 1]) < 1e9 && radius[i] >= 0.0 && radius[i] < 1e6;
    if (!is_right)
        return release_arrays(views, N_ARRAYS, "disks must have a place and a radius in pixels");
    Stretch *found;
    Py_ssize_t n_found = 0;
    Py_BEGIN_ALLOW_THREADS
    found = sorted_stretches(xy, radius, n, ny, nx, &n_found);
    if (found)
        n_found = join_stretches(found, n_found, nx);
    Py_END_ALLOW_THREADS
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    Py_XDECREF(done);
    if (!found)
        return PyErr_NoMemory();
    PyObject *bytes = PyByteArray_FromStringAndSize((const char *)found, n_found * (Py_ssize_t)sizeof *found);
    free(found);
    return bytes;
}

/* Median of up to nine numbers, which are sorted. */
static double median_of_few(double *values, int n)
{
    for (int i = 1; i < n; i++) {
        const double value = values[i];
        int at = i;
        for (; at > 0 && values[at - 1] > value; at--)
            values[at] = values[at - 1];
        values[at] = value;
    }
    return 0.5 * (values[(n - 1) / 2] + values[n / 2]);
}

/* Median of a box of a mesh and those around it; beyond the edges there is nothing. */
static double median_around(const double *mesh, Py_ssize_t ny, Py_ssize_t nx, Py_ssize_t box)
{
    const Py_ssize_t row = box / nx, column = box % nx;
    double around[9];
    int n = 0;
    for (Py_ssize_t y = row > 0 ? row - 1 : 0; y <= row + 1 && y < ny; y++)
        for (Py_ssize_t x = column > 0 ? column - 1 : 0; x <= column + 1 && x < nx; x++)
            if (!isnan(mesh[y * nx + x]))
                around[n++] = mesh[y * nx + x];
    return n ? median_of_few(around, n) : (double)NAN;
}

/* The smaller one first. */
#define ORDER(a, b)                                                                                                    \
    do {                                                                                                               \
        const double low = a < b ? a : b, high = a < b ? b : a;                                                        \
        a = low;                                                                                                       \
        b = high;                                                                                                      \
    } while (0)

/* Medians of a row of boxes, all of them and those around them known, but for the first and the last of the row. Rows
 * of three are put in order; the median is that of the largest first, the middle second and the smallest third of them
 * (Smith 1996, Xilinx XCELL 23, 16). */
static void medians_of_nine(const double *above, const double *row, const double *below, Py_ssize_t nx, double *filtered)
{
    for (Py_ssize_t x = 1; x < nx - 1; x++) {
        double a = above[x - 1], b = above[x], c = above[x + 1];
        double d = row[x - 1], e = row[x], f = row[x + 1];
        double g = below[x - 1], h = below[x], i = below[x + 1];
        ORDER(a, b);
        ORDER(b, c);
        ORDER(a, b);
        ORDER(d, e);
        ORDER(e, f);
        ORDER(d, e);
        ORDER(g, h);
        ORDER(h, i);
        ORDER(g, h);
        a = a > d ? a : d;
        a = a > g ? a : g;
        c = c < f ? c : f;
        c = c < i ? c : i;
        ORDER(b, e);
        ORDER(e, h);
        ORDER(b, e);
        ORDER(a, e);
        ORDER(e, c);
        ORDER(a, e);
        filtered[x] = e;
    }
}

/* Medians of all boxes of a mesh. */
static void fill_medians(const double *mesh, Py_ssize_t ny, Py_ssize_t nx, double *filtered)
{
    int is_known = 1;
    for (Py_ssize_t box = 0; box < ny * nx; box++)
        is_known &= !isnan(mesh[box]);
    for (Py_ssize_t y = 0; y < ny; y++) {
        const int is_inner = is_known && y > 0 && y < ny - 1 && nx > 2;
        if (is_inner)
            medians_of_nine(mesh + (y - 1) * nx, mesh + y * nx, mesh + (y + 1) * nx, nx, filtered + y * nx);
        for (Py_ssize_t x = 0; x < nx; x += is_inner && x == 0 ? nx - 1 : 1)
            filtered[y * nx + x] = median_around(mesh, ny, nx, y * nx + x);
    }
}

PyObject *mesh_medians(PyObject *module, PyObject *arguments)
{
    enum { MESH, FILTERED, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 2, FLOAT64, READ, "mesh"}, {NULL, 2, FLOAT64, WRITE, "filtered"}};
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":mesh_medians") < 0)
        return NULL;
    const Py_ssize_t ny = views[MESH].shape[0], nx = views[MESH].shape[1];
    const double *mesh = views[MESH].buf;
    double *filtered = views[FILTERED].buf;
    const int is_right = views[FILTERED].shape[0] == ny && views[FILTERED].shape[1] == nx;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        fill_medians(mesh, ny, nx, filtered);
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "both meshes must have one shape");
}
