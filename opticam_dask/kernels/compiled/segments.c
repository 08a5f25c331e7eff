/* Segments of the pixels that stand out of a frame, and the basins of their maxima: see segments.py for what is
 * computed, and for the form in NumPy. Pixels are places in the flattened frame, ascending: what lies around one is found
 * by a pointer to each of the three rows that moves on with it. */

#include "arrays.h"
#include "sums.h"

#include <string.h>

/* A frame and some of its pixels. */
typedef struct {
    const Py_buffer *image;
    int is_single;
    const int64_t *pixels;
    Py_ssize_t n, ny, nx;
} Chosen;

/* Value of a pixel; `is_single` is known where this is compiled. */
static inline double value_at(const void *image, int is_single, int64_t place)
{
    return is_single ? (double)((const float *)image)[place] : ((const double *)image)[place];
}

/* Index of a place, from where an earlier search has come to; -1 where it is not among the pixels. */
static Py_ssize_t index_of(const Chosen *chosen, int64_t place, Py_ssize_t *from)
{
    while (*from < chosen->n && chosen->pixels[*from] < place)
        ++*from;
    return *from < chosen->n && chosen->pixels[*from] == place ? *from : -1;
}

static void join(int64_t *parent, int64_t one, int64_t other)
{
    const int64_t a = first_of(parent, one), b = first_of(parent, other);
    parent[a > b ? a : b] = a > b ? b : a;
}

/* Number the segments, in the order of their first pixels; returns how many there are. */
static int64_t label_all(const Chosen *chosen, int64_t *labels)
{
    const int64_t nx = chosen->nx;
    Py_ssize_t above = 0;
    int64_t n_labels = 0, row = -1, row_end = 0;
    for (Py_ssize_t i = 0; i < chosen->n; i++) {
        const int64_t place = chosen->pixels[i];
        if (place >= row_end) {
            row = place / nx;
            row_end = (row + 1) * nx;
        }
        const int64_t column = place - row * nx;
        const int goes_on = i > 0 && column > 0 && chosen->pixels[i - 1] == place - 1;
        labels[i] = goes_on ? first_of(labels, i - 1) : i;
        if (row == 0)
            continue;
        /* of the row above, a pixel to the left touches all but the last; and that is touched by the one before it */
        const int64_t last = place - nx + (column < nx - 1);
        index_of(chosen, place - nx - (!goes_on && column > 0), &above);
        if (goes_on && above < i && chosen->pixels[above] == place - nx)
            continue;
        for (Py_ssize_t k = above; k < i && chosen->pixels[k] <= last; k++)
            join(labels, k, i);
    }
    for (Py_ssize_t i = 0; i < chosen->n; i++)
        labels[i] = labels[i] == i ? n_labels++ : labels[labels[i]];
    return n_labels;
}

/* Place of the highest pixel of the image around one, or its own; of equal ones the first is the higher. */
static inline int64_t uphill_of(const Chosen *chosen, int is_single, int64_t row, int64_t column)
{
    const int64_t nx = chosen->nx, place = row * nx + column;
    const int is_inside = row > 0 && row < chosen->ny - 1 && column > 0 && column < nx - 1;
    double highest = value_at(chosen->image->buf, is_single, place);
    int64_t uphill = place;
    for (int dy = -1; dy <= 1; dy++) {
        for (int dx = -1; dx <= 1; dx++) {
            const int is_there = is_inside || (row + dy >= 0 && row + dy < chosen->ny && column + dx >= 0 && column + dx < nx);
            if ((dy == 0 && dx == 0) || !is_there)
                continue;
            const double value = value_at(chosen->image->buf, is_single, place + dy * nx + dx);
            const int is_before = dy < 0 || (dy == 0 && dx < 0);
            if (value > highest || (is_before && value == highest && uphill == place)) {
                highest = value;
                uphill = place + dy * nx + dx;
            }
        }
    }
    return uphill;
}

#define AHEAD 24 /* pixels before it is its turn the row below one is brought into the cache */

/* Way up from each pixel to the highest around it, as an index. */
static void find_ways(const Chosen *chosen, int64_t *way)
{
    const int64_t nx = chosen->nx, n_bytes = chosen->is_single ? sizeof(float) : sizeof(double);
    Py_ssize_t pointers[3] = {0, 0, 0};
    for (Py_ssize_t i = 0; i < chosen->n; i++) {
        if (i + AHEAD < chosen->n && chosen->pixels[i + AHEAD] + nx < chosen->ny * nx) /* rows above were there before */
            FETCH_ROW((const char *)chosen->image->buf + (chosen->pixels[i + AHEAD] + nx) * n_bytes, 1);
        const int64_t place = chosen->pixels[i], row = place / nx, column = place - row * nx;
        const int64_t uphill = chosen->is_single ? uphill_of(chosen, 1, row, column) : uphill_of(chosen, 0, row, column);
        const int64_t away = uphill - place;
        const int dy = away < -1 ? -1 : (away > 1 ? 1 : 0);
        /* a pointer stays before what later pixels may look for */
        index_of(chosen, place + dy * nx - 1, &pointers[dy + 1]);
        Py_ssize_t from = pointers[dy + 1];
        const Py_ssize_t found = index_of(chosen, uphill, &from);
        way[i] = found < 0 ? i : found; /* a higher neighbour may be no pixel of a source, where the threshold changes */
    }
}

/* Basin of each pixel, from the ways up; returns how many there are. */
static int64_t number_basins(Py_ssize_t n, const int64_t *way, int64_t *number, int64_t *basins)
{
    int64_t n_basins = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        number[i] = way[i] == i ? n_basins++ : -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        int64_t top = i;
        while (number[top] < 0)
            top = way[top];
        basins[i] = number[top];
        for (int64_t at = i; number[at] < 0; at = way[at]) /* later ways end here */
            number[at] = basins[i];
    }
    return n_basins;
}

PyObject *label_pixels(PyObject *module, PyObject *arguments)
{
    Wanted wanted[2] = {{NULL, 1, INT64, READ, "pixels"}, {NULL, 1, INT64, WRITE, "labels"}};
    Py_buffer views[MOST_ARRAYS];
    Py_ssize_t nx;
    int64_t n_labels = 0;
    (void)module;
    if (open_given(arguments, wanted, views, 2, "n:label_pixels", &nx) < 0)
        return NULL;
    const Chosen chosen = {.pixels = views[0].buf, .n = views[0].shape[0], .nx = nx};
    int is_right = nx > 0 && views[1].shape[0] == chosen.n && (chosen.n == 0 || chosen.pixels[0] >= 0);
    for (Py_ssize_t i = 1; is_right && i < chosen.n; i++)
        is_right = chosen.pixels[i] > chosen.pixels[i - 1];
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        n_labels = label_all(&chosen, views[1].buf);
        Py_END_ALLOW_THREADS
    }
    PyObject *done = release_arrays(views, 2, is_right ? NULL : "pixels must be ascending places, each with a label");
    if (!done)
        return NULL;
    Py_DECREF(done);
    return PyLong_FromLongLong(n_labels);
}

/* Leave out the segments of fewer than `least` pixels, and number the others anew; returns how many pixels are left. */
static Py_ssize_t keep_large(const Chosen *chosen, int64_t *labels, int64_t *n_labels, int64_t *number, Py_ssize_t least,
                             int64_t *places, double *values)
{
    Py_ssize_t n_kept = 0;
    int64_t n_large = 0;
    memset(number, 0, (size_t)*n_labels * sizeof *number);
    for (Py_ssize_t i = 0; i < chosen->n; i++)
        number[labels[i]]++;
    for (int64_t label = 0; label < *n_labels; label++)
        number[label] = number[label] >= least ? n_large++ : -1;
    for (Py_ssize_t i = 0; i < chosen->n; i++) {
        const int64_t label = number[labels[i]];
        if (label < 0)
            continue;
        places[n_kept] = chosen->pixels[i];
        values[n_kept] = value_at(chosen->image->buf, chosen->is_single, chosen->pixels[i]);
        labels[n_kept++] = label;
    }
    *n_labels = n_large;
    return n_kept;
}

PyObject *large_segments(PyObject *module, PyObject *arguments)
{
    enum { IMAGE, PIXELS, PLACES, VALUES, LABELS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 2, FLOAT64, READ, "image"}, {NULL, 1, INT64, READ, "pixels"},
                               {NULL, 1, INT64, WRITE, "places"}, {NULL, 1, FLOAT64, WRITE, "values"},
                               {NULL, 1, INT64, WRITE, "labels"}};
    Py_buffer views[N_ARRAYS];
    Py_ssize_t least, n_kept = 0;
    int64_t n_labels = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOn:large_segments", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &wanted[4].object, &least))
        return NULL;
    wanted[IMAGE].kind = kind_of_object(wanted[IMAGE].object) == FLOAT32 ? FLOAT32 : FLOAT64;
    if (open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Chosen chosen = {.image = &views[IMAGE], .is_single = wanted[IMAGE].kind == FLOAT32,
                           .pixels = views[PIXELS].buf, .n = views[PIXELS].shape[0],
                           .ny = views[IMAGE].shape[0], .nx = views[IMAGE].shape[1]};
    int is_right = 1, has_room = 1;
    for (int which = PLACES; which <= LABELS; which++)
        is_right &= views[which].shape[0] == chosen.n;
    for (Py_ssize_t i = 0; is_right && i < chosen.n; i++)
        is_right = chosen.pixels[i] > (i ? chosen.pixels[i - 1] : -1) && chosen.pixels[i] < chosen.ny * chosen.nx;
    if (is_right) {
        int64_t *room = malloc((size_t)(chosen.n + 1) * sizeof *room);
        has_room = room != NULL;
        if (has_room) {
            Py_BEGIN_ALLOW_THREADS
            n_labels = label_all(&chosen, views[LABELS].buf);
            n_kept = keep_large(&chosen, views[LABELS].buf, &n_labels, room, least, views[PLACES].buf, views[VALUES].buf);
            Py_END_ALLOW_THREADS
        }
        free(room);
    }
    PyObject *done = release_arrays(views, N_ARRAYS, is_right ? NULL : "pixels must be ascending places of the image");
    if (!done)
        return NULL;
    Py_DECREF(done);
    return has_room ? Py_BuildValue("(nL)", n_kept, (long long)n_labels) : PyErr_NoMemory();
}

PyObject *find_basins(PyObject *module, PyObject *arguments)
{
    Wanted wanted[3] = {{NULL, 2, FLOAT64, READ, "image"}, {NULL, 1, INT64, READ, "pixels"}, {NULL, 1, INT64, WRITE, "basins"}};
    Py_buffer views[MOST_ARRAYS];
    int64_t n_basins = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOO:find_basins", &wanted[0].object, &wanted[1].object, &wanted[2].object))
        return NULL;
    wanted[0].kind = kind_of_object(wanted[0].object) == FLOAT32 ? FLOAT32 : FLOAT64;
    if (open_arrays(wanted, views, 3) < 0)
        return NULL;
    const Chosen chosen = {.image = &views[0], .is_single = wanted[0].kind == FLOAT32, .pixels = views[1].buf,
                           .n = views[1].shape[0], .ny = views[0].shape[0], .nx = views[0].shape[1]};
    int is_right = views[2].shape[0] == chosen.n, has_room = 1;
    for (Py_ssize_t i = 0; is_right && i < chosen.n; i++)
        is_right = chosen.pixels[i] > (i ? chosen.pixels[i - 1] : -1) && chosen.pixels[i] < chosen.ny * chosen.nx;
    if (is_right) {
        int64_t *room = malloc((size_t)(2 * chosen.n + 1) * sizeof *room);
        has_room = room != NULL;
        if (has_room) {
            Py_BEGIN_ALLOW_THREADS
            find_ways(&chosen, room);
            n_basins = number_basins(chosen.n, room, room + chosen.n, views[2].buf);
            Py_END_ALLOW_THREADS
        }
        free(room);
    }
    PyObject *done = release_arrays(views, 3, is_right ? NULL : "pixels must be ascending places of the image");
    if (!done)
        return NULL;
    Py_DECREF(done);
    return has_room ? PyLong_FromLongLong(n_basins) : PyErr_NoMemory();
}

PyObject *segment_moments(PyObject *module, PyObject *arguments)
{
    enum { PIXELS, LABELS, VALUES, FIRST, SUMS, N_ARRAYS };
    enum { TOTAL, OF_X, OF_Y, OF_XX, OF_YY, OF_XY, N_SUMS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 1, INT64, READ, "pixels"},  {NULL, 1, INT64, READ, "labels"},  {NULL, 1, FLOAT64, READ, "values"},
        {NULL, 1, INT64, WRITE, "first"}, {NULL, 2, FLOAT64, WRITE, "sums"},
    };
    Py_buffer views[MOST_ARRAYS];
    Py_ssize_t nx;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "n:segment_moments", &nx) < 0)
        return NULL;
    const Py_ssize_t n = views[PIXELS].shape[0], n_labels = views[FIRST].shape[0];
    const int64_t *pixels = views[PIXELS].buf, *labels = views[LABELS].buf;
    const double *values = views[VALUES].buf;
    int64_t *first = views[FIRST].buf;
    double *sums = views[SUMS].buf;
    int is_right = nx > 0 && views[LABELS].shape[0] == n && views[VALUES].shape[0] == n &&
                   views[SUMS].shape[0] == N_SUMS && views[SUMS].shape[1] == n_labels;
    for (Py_ssize_t i = 0; is_right && i < n; i++)
        is_right = labels[i] >= 0 && labels[i] < n_labels && pixels[i] >= 0;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        memset(sums, 0, (size_t)(N_SUMS * n_labels) * sizeof *sums);
        for (Py_ssize_t label = 0; label < n_labels; label++)
            first[label] = 0; /* of a label without pixels */
        for (Py_ssize_t i = n - 1; i >= 0; i--)
            first[labels[i]] = pixels[i];
        for (Py_ssize_t i = 0; i < n; i++) {
            const int64_t label = labels[i];
            const double dx = (double)(pixels[i] % nx - first[label] % nx), dy = (double)(pixels[i] / nx - first[label] / nx);
            const double of_x = values[i] * dx, of_y = values[i] * dy;
            sums[TOTAL * n_labels + label] += values[i];
            sums[OF_X * n_labels + label] += of_x;
            sums[OF_Y * n_labels + label] += of_y;
            sums[OF_XX * n_labels + label] += of_x * dx;
            sums[OF_YY * n_labels + label] += of_y * dy;
            sums[OF_XY * n_labels + label] += of_x * dy;
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "pixels, labels and sums do not belong together");
}
