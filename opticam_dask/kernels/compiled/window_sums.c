/* Sums over the pixels of windows of stars, and which of their pixels count: see window_sums.py for the form in NumPy.
 * The order of the sums is that of NumPy: the same bits. */

#include "arrays.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define LANES 8
#define BLOCK 128 /* longer rows of numbers are summed by halves */

IN_LANES static double sum_of_block(const double *values, Py_ssize_t n)
{
    double lanes[LANES];
    Py_ssize_t i = LANES;
    for (int k = 0; k < LANES; k++)
        lanes[k] = values[k];
    for (; i < n - n % LANES; i += LANES)
        for (int k = 0; k < LANES; k++)
            lanes[k] += values[i + k];
    double sum = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    for (; i < n; i++)
        sum += values[i];
    return sum;
}

static double sum_of(const double *values, Py_ssize_t n)
{
    if (n < LANES) {
        double sum = -0.0;
        for (Py_ssize_t i = 0; i < n; i++)
            sum += values[i];
        return sum;
    }
    if (n <= BLOCK)
        return sum_of_block(values, n);
    const Py_ssize_t half = n / 2 - n / 2 % LANES;
    return sum_of(values, half) + sum_of(values + half, n - half);
}

/* Terms of the sums of a window, in their order. */
enum { WHOLE, AREA, FLUX, PHOTONS, SKY, INSIDE, SEEN, N_SUMS };

/* One window: its weights, electrons (NaN where there is no data), RMS (of each pixel, or of all), and light or NULL. */
typedef struct {
    const double *weights, *electrons, *rms, *light;
    Py_ssize_t n, rms_step;
} Window;

APART IN_LANES static void find_terms(const Window *window, double *restrict area, double *restrict flux,
                                      double *restrict photons, double *restrict sky)
{
    const double *restrict weights = window->weights, *restrict electrons = window->electrons, *restrict rms = window->rms;
    const Py_ssize_t n = window->n, step = window->rms_step;
    for (Py_ssize_t i = 0; i < n; i++) {
        const int is_known = fabs(electrons[i]) <= DBL_MAX;
        const double weight = is_known ? weights[i] : 0.0, light = is_known ? electrons[i] : 0.0;
        area[i] = weight;
        flux[i] = weights[i] * light;
        photons[i] = weight * weight * light;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const double squared = area[i] * area[i], noise = squared > 0.0 ? rms[i * step] : 0.0;
        sky[i] = squared * (noise * noise);
    }
}

APART IN_LANES static void find_shares(const Window *window, double *restrict inside, double *restrict seen)
{
    const double *restrict weights = window->weights, *restrict light = window->light;
    const double *restrict electrons = window->electrons;
    for (Py_ssize_t i = 0; i < window->n; i++) {
        inside[i] = weights[i] * light[i];
        seen[i] = fabs(electrons[i]) <= DBL_MAX ? inside[i] : 0.0;
    }
}

PyObject *aperture_sums(PyObject *module, PyObject *arguments)
{
    enum { WEIGHTS, ELECTRONS, RMS, LIGHT, SUMS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 3, FLOAT64, READ, "weights"}, {NULL, 3, FLOAT64, READ, "electrons"},
                               {NULL, 3, FLOAT64, READ, "rms"}, {NULL, 3, FLOAT64, OPTIONAL, "light"},
                               {NULL, 2, FLOAT64, WRITE, "sums"}};
    Py_buffer views[N_ARRAYS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOO:aperture_sums", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &wanted[4].object) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t *shape = views[WEIGHTS].shape, n = shape[0], area = shape[1] * shape[2];
    const Py_ssize_t of_rms = views[RMS].shape[1] * views[RMS].shape[2];
    const char *wrong = NULL;
    for (int which = ELECTRONS; which <= LIGHT; which++)
        for (int axis = 0; axis < 3 && views[which].buf; axis++)
            if (views[which].shape[axis] != shape[axis] && !(which == RMS && axis && of_rms == 1))
                wrong = "windows must have one shape";
    if (views[SUMS].shape[0] != N_SUMS || views[SUMS].shape[1] != n)
        wrong = "sums must have shape (7, n)";
    double *room = wrong ? NULL : room_for(N_SUMS * area, views, N_ARRAYS);
    if (!room)
        return wrong ? release_arrays(views, N_ARRAYS, wrong) : NULL;
    double *sums = views[SUMS].buf;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        const Window window = {(const double *)views[WEIGHTS].buf + i * area, (const double *)views[ELECTRONS].buf + i * area,
                               (const double *)views[RMS].buf + i * of_rms,
                               views[LIGHT].buf ? (const double *)views[LIGHT].buf + i * area : NULL, area, of_rms > 1};
        find_terms(&window, room, room + area, room + 2 * area, room + 3 * area);
        sums[WHOLE * n + i] = sum_of(window.weights, area);
        for (int term = AREA; term <= SKY; term++)
            sums[term * n + i] = sum_of(room + (term - AREA) * area, area);
        if (window.light)
            find_shares(&window, room + 4 * area, room + 5 * area);
        for (int term = INSIDE; term <= SEEN; term++)
            sums[term * n + i] = window.light ? sum_of(room + (term - AREA) * area, area) : (double)NAN;
    }
    Py_END_ALLOW_THREADS
    free(room);
    return release_arrays(views, N_ARRAYS, NULL);
}

/* Arrays of centroid_sums: along has the Gaussian and the squared distance of columns and rows, shape (4, n, size). */
APART IN_LANES static void find_signal(const double *restrict cutout, const double *restrict rms, Py_ssize_t step,
                                       const double *const along[4], double reach, Py_ssize_t size, double *restrict light,
                                       double *restrict source, double *restrict noise)
{
    for (Py_ssize_t y = 0, i = 0; y < size; y++)
        for (Py_ssize_t x = 0; x < size; x++, i++) {
            const int is_known = fabs(cutout[i]) <= DBL_MAX;
            const double peak = along[0][x] * along[1][y];
            const double window = is_known && along[2][x] + along[3][y] < reach ? peak : 0.0;
            const double scatter = window * (is_known ? rms[i * step] : 0.0);
            light[i] = window * (is_known ? cutout[i] : 0.0);
            source[i] = window * light[i];
            noise[i] = scatter * scatter;
        }
}

PyObject *centroid_sums(PyObject *module, PyObject *arguments)
{
    enum { CUTOUTS, RMS, ALONG, SUMS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 3, FLOAT64, READ, "cutouts"}, {NULL, 3, FLOAT64, READ, "rms"},
                               {NULL, 3, FLOAT64, READ, "along"}, {NULL, 2, FLOAT64, WRITE, "sums"}};
    Py_buffer views[N_ARRAYS];
    double reach;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOd:centroid_sums", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &reach) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t n = views[CUTOUTS].shape[0], size = views[CUTOUTS].shape[1], area = size * size;
    const Py_ssize_t of_rms = views[RMS].shape[1] * views[RMS].shape[2];
    const char *wrong = NULL;
    if (views[CUTOUTS].shape[2] != size || views[RMS].shape[0] != n || (of_rms != 1 && of_rms != area))
        wrong = "windows must be square, and rms belong to them";
    if (views[ALONG].shape[0] != 4 || views[ALONG].shape[1] != n || views[ALONG].shape[2] != size ||
        views[SUMS].shape[0] != 3 || views[SUMS].shape[1] != n)
        wrong = "along must have shape (4, n, size), sums (3, n)";
    double *room = wrong ? NULL : room_for(3 * area, views, N_ARRAYS);
    if (!room)
        return wrong ? release_arrays(views, N_ARRAYS, wrong) : NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *along[4];
        for (int k = 0; k < 4; k++)
            along[k] = (const double *)views[ALONG].buf + (k * n + i) * size;
        find_signal((const double *)views[CUTOUTS].buf + i * area, (const double *)views[RMS].buf + i * of_rms, of_rms > 1,
                    along, reach, size, room, room + area, room + 2 * area);
        for (int term = 0; term < 3; term++)
            ((double *)views[SUMS].buf)[term * n + i] = sum_of(room + term * area, area);
    }
    Py_END_ALLOW_THREADS
    free(room);
    return release_arrays(views, N_ARRAYS, NULL);
}

/* What of_pixels tells of each source, in its order. */
enum { THERE, BEYOND, LACKING, SATURATED, STRAY, ALL_STRAY, N_FACTS };

/* One row of a window, of which the pixels from `left` to `right` lie on the frame. */
APART IN_LANES static void add_row(const unsigned char *restrict counted, const double *restrict electrons,
                                   const unsigned char *restrict saturated, const unsigned char *restrict stray,
                                   int size, int left, int right, int64_t *restrict found)
{
    int there = 0, all = 0, lacking = 0, n_saturated = 0, n_stray = 0, all_stray = 0;
    for (int x = left; x < right; x++)
        there += counted[x];
    for (int x = left; x < right; x++)
        lacking += counted[x] & !(fabs(electrons[x]) <= DBL_MAX);
    for (int x = 0; x < size; x++) {
        all += counted[x];
        n_saturated += counted[x] & saturated[x];
        n_stray += counted[x] & stray[x];
        all_stray += stray[x];
    }
    found[THERE] += there;
    found[BEYOND] += all - there;
    found[LACKING] += lacking;
    found[SATURATED] += n_saturated;
    found[STRAY] += n_stray;
    found[ALL_STRAY] += all_stray;
}

/* A place held to those from 0 to `most`. */
static int held(int64_t place, Py_ssize_t most)
{
    return place < 0 ? 0 : place > most ? (int)most : (int)place;
}

PyObject *pixel_facts(PyObject *module, PyObject *arguments)
{
    enum { CORNERS, COUNTED, ELECTRONS, IS_SATURATED, IS_STRAY, FACTS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 2, INT64, READ, "corners"}, {NULL, 3, BOOL, READ, "counted"},
                               {NULL, 3, FLOAT64, READ, "electrons"}, {NULL, 3, BOOL, READ, "saturated"},
                               {NULL, 3, BOOL, READ, "stray"}, {NULL, 2, INT64, WRITE, "facts"}};
    Py_buffer views[N_ARRAYS];
    Py_ssize_t ny, nx;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOOOOnn:pixel_facts", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object, &wanted[4].object, &wanted[5].object, &ny, &nx) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t *shape = views[COUNTED].shape, n = shape[0], size = shape[1], area = size * shape[2];
    const char *wrong = shape[2] == size ? NULL : "windows must be square";
    for (int which = ELECTRONS; which <= IS_STRAY; which++)
        for (int axis = 0; axis < 3; axis++)
            if (views[which].shape[axis] != shape[axis])
                wrong = "windows must have one shape";
    if (views[CORNERS].shape[0] != 2 || views[CORNERS].shape[1] != n || views[FACTS].shape[0] != N_FACTS ||
        views[FACTS].shape[1] != n)
        wrong = "corners must have shape (2, n), facts (6, n)";
    const int64_t *corners = views[CORNERS].buf;
    int64_t *facts = views[FACTS].buf;
    for (Py_ssize_t i = 0; i < n && !wrong; i++) {
        const unsigned char *counted = (const unsigned char *)views[COUNTED].buf + i * area;
        const unsigned char *saturated = (const unsigned char *)views[IS_SATURATED].buf + i * area;
        const unsigned char *stray = (const unsigned char *)views[IS_STRAY].buf + i * area;
        const double *electrons = (const double *)views[ELECTRONS].buf + i * area;
        int64_t found[N_FACTS] = {0};
        const int left = held(-corners[i], size), right = held(nx - corners[i], size);
        for (Py_ssize_t y = 0; y < size; y++) {
            const int is_on = corners[n + i] + y >= 0 && corners[n + i] + y < ny;
            const Py_ssize_t from = y * size;
            add_row(counted + from, electrons + from, saturated + from, stray + from, (int)size, left, is_on ? right : left,
                    found);
        }
        for (int fact = 0; fact < N_FACTS; fact++)
            facts[fact * n + i] = found[fact];
    }
    return release_arrays(views, N_ARRAYS, wrong);
}

/* Sums of one window in square blocks, and how many pixels each has; both have room for all blocks. */
static void sum_blocks(const double *deviation, const unsigned char *used, Py_ssize_t size, Py_ssize_t block, double *sums,
                       double *count, double *row)
{
    const Py_ssize_t n = (size + block - 1) / block;
    for (Py_ssize_t k = 0; k < n * n; k++)
        sums[k] = count[k] = 0.0;
    for (Py_ssize_t y = 0; y < size; y++) {
        for (Py_ssize_t k = 0; k < 2 * n; k++)
            row[k] = 0.0;
        for (Py_ssize_t k = 0, x = 0; k < n; k++)
            for (const Py_ssize_t end = x + block < size ? x + block : size; x < end; x++)
                if (used[y * size + x]) {
                    row[k] += deviation[y * size + x];
                    row[n + k] += 1.0;
                }
        for (Py_ssize_t k = 0; k < n; k++) {
            sums[y / block * n + k] += row[k];
            count[y / block * n + k] += row[n + k];
        }
    }
}

PyObject *block_excess(PyObject *module, PyObject *arguments)
{
    enum { DEVIATION, USED, FOUND, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 3, FLOAT64, READ, "deviation"}, {NULL, 3, BOOL, READ, "used"},
                               {NULL, 2, FLOAT64, WRITE, "found"}};
    Py_buffer views[N_ARRAYS];
    Py_ssize_t block;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOn:block_excess", &wanted[0].object, &wanted[1].object, &wanted[2].object, &block) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t *shape = views[DEVIATION].shape, n = shape[0], size = shape[1];
    const char *wrong = shape[2] == size && block > 0 ? NULL : "windows must be square, and blocks have pixels";
    for (int axis = 0; axis < 3; axis++)
        if (views[USED].shape[axis] != shape[axis])
            wrong = "windows must have one shape";
    if (views[FOUND].shape[0] != 3 || views[FOUND].shape[1] != n)
        wrong = "found must have shape (3, n)";
    const Py_ssize_t along = wrong ? 0 : (size + block - 1) / block, n_blocks = along * along;
    double *room = wrong ? NULL : room_for(2 * n_blocks + 2 * along, views, N_ARRAYS);
    if (!room)
        return wrong ? release_arrays(views, N_ARRAYS, wrong) : NULL;
    double *largest = views[FOUND].buf, *total = largest + n, *known = total + n;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        sum_blocks((const double *)views[DEVIATION].buf + i * size * size,
                   (const unsigned char *)views[USED].buf + i * size * size, size, block, room, room + n_blocks,
                   room + 2 * n_blocks);
        largest[i] = -(double)INFINITY;
        known[i] = 0.0;
        for (Py_ssize_t k = 0; k < n_blocks; k++) {
            const double count = room[n_blocks + k], sum = room[k] / sqrt(count > 1.0 ? count : 1.0);
            largest[i] = sum > largest[i] || isnan(sum) ? sum : largest[i];
            known[i] += count > 0.0;
            room[k] = sum * sum;
        }
        total[i] = sum_of(room, n_blocks);
    }
    Py_END_ALLOW_THREADS
    free(room);
    return release_arrays(views, N_ARRAYS, NULL);
}

PyObject *add_windows(PyObject *module, PyObject *arguments)
{
    enum { SUMS, OF, AMOUNTS, WINDOWS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {{NULL, 3, FLOAT64, WRITE, "sums"}, {NULL, 1, INT64, READ, "of"},
                               {NULL, 1, FLOAT64, READ, "amounts"}, {NULL, 3, FLOAT64, READ, "windows"}};
    Py_buffer views[N_ARRAYS];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOO:add_windows", &wanted[0].object, &wanted[1].object, &wanted[2].object,
                          &wanted[3].object) ||
        open_arrays(wanted, views, N_ARRAYS) < 0)
        return NULL;
    const Py_ssize_t n = views[WINDOWS].shape[0], area = views[SUMS].shape[1] * views[SUMS].shape[2];
    const int64_t *of = views[OF].buf;
    int is_right = views[OF].shape[0] == n && views[AMOUNTS].shape[0] == n &&
                   views[SUMS].shape[1] == views[WINDOWS].shape[1] && views[SUMS].shape[2] == views[WINDOWS].shape[2];
    for (Py_ssize_t i = 0; i < n && is_right; i++)
        is_right = of[i] < views[SUMS].shape[0]; /* below 0 is none */
    for (Py_ssize_t i = 0; i < n && is_right; i++) {
        if (of[i] < 0)
            continue;
        double *restrict sums = (double *)views[SUMS].buf + of[i] * area;
        const double *restrict window = (const double *)views[WINDOWS].buf + i * area;
        const double amount = ((const double *)views[AMOUNTS].buf)[i];
        for (Py_ssize_t k = 0; k < area; k++)
            sums[k] += amount * window[k];
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "windows and sums do not belong together");
}
