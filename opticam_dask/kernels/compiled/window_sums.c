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
enum { THERE, BEYOND, LACKING, SATURATED, STRAY, N_STRAY, N_FACTS };

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
        for (Py_ssize_t y = 0, place = 0; y < size; y++) {
            const int is_row = corners[n + i] + y >= 0 && corners[n + i] + y < ny;
            for (Py_ssize_t x = 0; x < size; x++, place++) {
                found[N_STRAY] += stray[place];
                if (!counted[place])
                    continue;
                const int is_on = is_row && corners[i] + x >= 0 && corners[i] + x < nx;
                found[is_on ? THERE : BEYOND]++;
                found[LACKING] += is_on && !isfinite(electrons[place]);
                found[SATURATED] += saturated[place];
                found[STRAY] += stray[place];
            }
        }
        for (int fact = 0; fact < N_FACTS; fact++)
            facts[fact * n + i] = found[fact];
    }
    return release_arrays(views, N_ARRAYS, wrong);
}
