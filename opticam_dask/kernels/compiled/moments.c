/* Centroids and widths of sources in Gaussian windows: see centroids.py and moments.py for what is computed, and for
 * the form in NumPy. Only the pixels that a window reaches are looked at. */

#include "arrays.h"
#include "sums.h"

/* Numbers of windows.py, in this order. */
typedef struct {
    double window, coarse, at_rest, largest_gap;
} Gauss;

/* Sums over weighted pixels about a centre. */
typedef struct {
    double total, x, y, xx, xy, yy;
} Sums;

typedef struct {
    double xx, yy, xy;
} Form;

static int is_form(Form form)
{
    return form.xx * form.yy > form.xy * form.xy && form.xx > 0.0;
}

/* Half the sum of the variances along the axes, and half their difference. */
static double half_sum(Form form)
{
    return (form.xx + form.yy) / 2.0;
}

static double half_difference(Form form)
{
    const double along = (form.xx - form.yy) / 2.0;
    return sqrt(along * along + form.xy * form.xy);
}

static double semiminor_of(Form form)
{
    return sqrt(half_sum(form) - half_difference(form));
}

/* A number of pixels from 0 to n; 0 for NaN. */
static Py_ssize_t within(double value, Py_ssize_t n)
{
    return value > 0.0 ? (value < (double)n ? (Py_ssize_t)value : n) : 0;
}

static double larger(double one, double other)
{
    return one > other ? one : (one <= other ? other : one);
}

static double held(double value, double limit)
{
    return value > limit ? limit : (value < -limit ? -limit : value);
}

/* Squared distance of the columns of a row from x in units of sigma, and a Gaussian of it. */
static inline void columns_of(Py_ssize_t size, double x, double sigma, double *square, double *peak)
{
    for (int column = 0; column < (int)size; column++) {
        const double away = ((double)column - x) / sigma;
        square[column] = away * away;
        peak[column] = exponential(-0.5 * square[column]);
    }
}

/* Part of the signal of a round star of a sigma that falls on pixels without data; 1 where there is no signal.
 * `spare` has room for two rows. */
static double missing_signal(const double *pixels, Py_ssize_t size, double x, double y, double sigma, const Gauss *gauss,
                             double *spare)
{
    double whole = 0.0, missing = 0.0, *square = spare, *peak = spare + size;
    columns_of(size, x, sigma, square, peak);
    for (Py_ssize_t row = 0; row < size; row++, pixels += size) {
        const double away = ((double)row - y) / sigma, of_row = away * away;
        if (!(of_row < gauss->window * gauss->window))
            continue;
        const double along = exponential(-0.5 * of_row);
        for (Py_ssize_t column = 0; column < size; column++) {
            if (!(square[column] + of_row < gauss->window * gauss->window))
                continue;
            const double signal = (peak[column] * along) * (peak[column] * along);
            whole += signal;
            if (!isfinite(pixels[column]))
                missing += signal;
        }
    }
    return whole > 0.0 ? missing / whole : 1.0;
}

/* ---------------------------------------------------------------- adaptive moments */

/* Numbers of moments.py, in this order. */
typedef struct {
    double n_iterations, shape_at_rest, shortest, coarsest, narrowest;
} Adaptive;

static void add_row(Sums *sums, double row, double dy)
{
    sums->total += row;
    sums->y += row * dy;
    sums->yy += row * dy * dy;
}

/* Sums over a window of a form: those of the weighted pixels, and those of its own Gaussian. */
IN_LANES static void sum_window(const double *pixels, Py_ssize_t size, double x, double y, Form form, double window, int with_own,
                       double *spare, Sums *light, Sums *own)
{
    const double determinant = form.xx * form.yy - form.xy * form.xy;
    const double xx = form.yy / determinant, yy = form.xx / determinant, xy = -2.0 * form.xy / determinant;
    double *distance = spare, *weight = spare + size;
    memset(light, 0, sizeof *light);
    memset(own, 0, sizeof *own);
    for (Py_ssize_t row = 0; row < size; row++, pixels += size) {
        const double dy = (double)row - y, along = xy * dy, beyond = yy * dy * dy - window * window;
        const double root = along * along - 4.0 * xx * beyond;
        if (!(root >= 0.0))
            continue;
        const double middle = x - along / (2.0 * xx), half = sqrt(root) / (2.0 * xx);
        const Py_ssize_t first = within(middle - half - 1.0, size), last = within(middle + half + 2.0, size);
        for (int column = (int)first; column < (int)last; column++) { /* an int becomes a double in lanes */
            const double dx = (double)column - x;
            distance[column] = (xx * dx + along) * dx + yy * dy * dy;
            weight[column] = exponential(-0.5 * distance[column]);
        }
        Sums of_row, of_own;
        memset(&of_row, 0, sizeof of_row);
        memset(&of_own, 0, sizeof of_own);
        for (Py_ssize_t column = first; column < last; column++) {
            if (!(distance[column] < window * window) || !isfinite(pixels[column]))
                continue;
            const double dx = (double)column - x, value = weight[column] * pixels[column];
            of_row.total += value;
            of_row.x += value * dx;
            of_row.xx += value * dx * dx;
            if (with_own) {
                const double square = weight[column] * weight[column];
                of_own.total += square;
                of_own.x += square * dx;
                of_own.xx += square * dx * dx;
            }
        }
        add_row(light, of_row.total, dy);
        light->x += of_row.x;
        light->xx += of_row.xx;
        light->xy += of_row.x * dy;
        add_row(own, of_own.total, dy);
        own->x += of_own.x;
        own->xx += of_own.xx;
        own->xy += of_own.x * dy;
    }
}

/* Sums over their total, which become NaN where that is not above 0. */
static void normalise(Sums *sums)
{
    const double total = sums->total > 0.0 ? sums->total : (double)NAN;
    sums->x /= total;
    sums->y /= total;
    sums->xx /= total;
    sums->yy /= total;
    sums->xy /= total;
}

static void adapt(const double *pixels, Py_ssize_t size, double *centre, double sigma, const Gauss *gauss,
                  const Adaptive *limits, double *spare, double *result, char *good)
{
    const double begin_x = centre[0], begin_y = centre[1];
    double x = begin_x, y = begin_y, narrow = sigma;
    Form form = {sigma * sigma, sigma * sigma, 0.0};
    int is_good = isfinite(sigma) && sigma > 0.0 && isfinite(x) && isfinite(y), is_moving = is_good;
    for (int iteration = 0; is_moving && iteration < (int)limits->n_iterations; iteration++) {
        const int is_coarse = narrow < gauss->coarse;
        Sums light, own;
        sum_window(pixels, size, x, y, form, gauss->window, is_coarse, spare, &light, &own);
        normalise(&light);
        Form new = {2.0 * light.xx, 2.0 * light.yy, 2.0 * light.xy};
        double step_x = light.x, step_y = light.y;
        if (is_coarse) {
            normalise(&own);
            step_x -= own.x;
            step_y -= own.y;
            new.xx += form.xx - 2.0 * own.xx;
            new.yy += form.yy - 2.0 * own.yy;
            new.xy += form.xy - 2.0 * own.xy;
        }
        step_x = held(2.0 * step_x, 1.0);
        step_y = held(2.0 * step_y, 1.0);
        if (!isfinite(step_x + step_y) || !is_form(new)) {
            is_good = is_moving = 0;
            break;
        }
        const Form further = {2.0 * new.xx - form.xx, 2.0 * new.yy - form.yy, 2.0 * new.xy - form.xy};
        const double near = semiminor_of(new), far = semiminor_of(further);
        const double change = larger(larger(fabs(new.xx - form.xx), fabs(new.yy - form.yy)), fabs(new.xy - form.xy)) /
                              (form.xx + form.yy);
        /* from a start that is much too wide, twice as far is a width near zero */
        const int goes_further = is_form(further) && far > limits->shortest * near;
        form = goes_further ? further : new;
        narrow = goes_further ? far : near;
        x += step_x;
        y += step_y;
        is_moving = change > limits->shape_at_rest || sqrt(step_x * step_x + step_y * step_y) > gauss->at_rest;
    }
    const double semimajor = sqrt(half_sum(form) + half_difference(form)), semiminor = semiminor_of(form);
    const double away = sqrt((x - begin_x) * (x - begin_x) + (y - begin_y) * (y - begin_y));
    if (is_moving && semiminor < limits->coarsest)
        is_good = 0;
    is_good = is_good && away < 2.0 * semimajor && semimajor < (double)size / 3.0 && semiminor > limits->narrowest;
    is_good = is_good && missing_signal(pixels, size, x, y, sqrt(semimajor * semiminor), gauss, spare) < gauss->largest_gap;
    *good = (char)is_good;
    result[0] = form.xx;
    result[1] = form.yy;
    result[2] = form.xy;
}

PyObject *adaptive_moments(PyObject *module, PyObject *arguments)
{
    enum { CUTOUTS, CENTRES, SIGMA, WINDOWS, LIMITS, FORMS, GOOD, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 3, FLOAT64, READ, "cutouts"}, {NULL, 2, FLOAT64, READ, "centres"}, {NULL, 1, FLOAT64, READ, "sigma"},
        {NULL, 1, FLOAT64, READ, "windows"}, {NULL, 1, FLOAT64, READ, "limits"},  {NULL, 2, FLOAT64, WRITE, "forms"},
        {NULL, 1, BOOL, WRITE, "good"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":adaptive_moments") < 0)
        return NULL;
    const Py_ssize_t n = views[CUTOUTS].shape[0], size = views[CUTOUTS].shape[1];
    const int is_right = views[CUTOUTS].shape[2] == size && views[CENTRES].shape[0] == n && views[CENTRES].shape[1] == 2 &&
                         views[SIGMA].shape[0] == n && views[FORMS].shape[0] == n && views[FORMS].shape[1] == 3 &&
                         views[GOOD].shape[0] == n &&
                         views[WINDOWS].shape[0] == (Py_ssize_t)(sizeof(Gauss) / sizeof(double)) &&
                         views[LIMITS].shape[0] == (Py_ssize_t)(sizeof(Adaptive) / sizeof(double));
    if (is_right) {
        double *spare = room_for(2 * size, views, N_ARRAYS);
        if (!spare)
            return NULL;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            double centre[2] = {((const double *)views[CENTRES].buf)[2 * i], ((const double *)views[CENTRES].buf)[2 * i + 1]};
            adapt((const double *)views[CUTOUTS].buf + i * size * size, size, centre, ((const double *)views[SIGMA].buf)[i],
                  views[WINDOWS].buf, views[LIMITS].buf, spare, (double *)views[FORMS].buf + 3 * i,
                  (char *)views[GOOD].buf + i);
        }
        Py_END_ALLOW_THREADS
        free(spare);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "cut-outs, centres and forms do not belong together");
}

/* ---------------------------------------------------------------- centroids */

/* First moment, in its own window, of a Gaussian that is centred where the window is; 0 where pixels are small. */
static double centred(Py_ssize_t size, double place, double sigma, const Gauss *gauss)
{
    double first = 0.0, total = 0.0;
    if (!(sigma < gauss->coarse))
        return 0.0;
    for (Py_ssize_t i = 0; i < size; i++) {
        const double offset = (double)i - place, light = exponential(-(offset / sigma) * (offset / sigma));
        first += light * offset;
        total += light;
    }
    return first / total;
}

/* Total and first moments of the pixels in a round window. */
static void sum_round(const double *pixels, Py_ssize_t size, double x, double y, double sigma, const Gauss *gauss,
                      double *spare, Sums *sums)
{
    double *square = spare, *peak = spare + size;
    memset(sums, 0, sizeof *sums);
    columns_of(size, x, sigma, square, peak);
    for (Py_ssize_t row = 0; row < size; row++, pixels += size) {
        const double dy = (double)row - y, of_row = (dy / sigma) * (dy / sigma);
        if (!(of_row < gauss->window * gauss->window))
            continue;
        double total = 0.0, first = 0.0;
        for (Py_ssize_t column = 0; column < size; column++) {
            if (!(square[column] + of_row < gauss->window * gauss->window) || !isfinite(pixels[column]))
                continue;
            const double value = peak[column] * pixels[column];
            total += value;
            first += value * ((double)column - x);
        }
        const double along = exponential(-0.5 * of_row);
        sums->total += total * along;
        sums->x += first * along;
        sums->y += total * along * dy;
    }
}

static void find_centroid(const double *pixels, Py_ssize_t size, double *xy, double sigma, int n_iterations,
                          double nearly_at_rest, const Gauss *gauss, double *spare, char *converged)
{
    double x = xy[0], y = xy[1], length = (double)INFINITY;
    for (int iteration = 0; iteration < n_iterations && length > gauss->at_rest; iteration++) {
        Sums sums;
        sum_round(pixels, size, x, y, sigma, gauss, spare, &sums);
        if (!(sums.total > 0.0)) {
            length = (double)NAN;
            break;
        }
        const double step_x = held(2.0 * (sums.x / sums.total - centred(size, x, sigma, gauss)), sigma);
        const double step_y = held(2.0 * (sums.y / sums.total - centred(size, y, sigma, gauss)), sigma);
        x += step_x;
        y += step_y;
        length = sqrt(step_x * step_x + step_y * step_y);
    }
    const double moved = sqrt((x - xy[0]) * (x - xy[0]) + (y - xy[1]) * (y - xy[1]));
    *converged = (char)(moved < 2.0 * sigma && length < nearly_at_rest * sigma &&
                        missing_signal(pixels, size, x, y, sigma, gauss, spare) < gauss->largest_gap);
    xy[0] = *converged ? x : xy[0];
    xy[1] = *converged ? y : xy[1];
}

PyObject *windowed_centroids(PyObject *module, PyObject *arguments)
{
    enum { CUTOUTS, SIGMA, WINDOWS, CENTRES, CONVERGED, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 3, FLOAT64, READ, "cutouts"},  {NULL, 1, FLOAT64, READ, "sigma"},  {NULL, 1, FLOAT64, READ, "windows"},
        {NULL, 2, FLOAT64, WRITE, "centres"}, {NULL, 1, BOOL, WRITE, "converged"},
    };
    Py_buffer views[MOST_ARRAYS];
    int n_iterations;
    double nearly_at_rest;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "id:windowed_centroids", &n_iterations, &nearly_at_rest) < 0)
        return NULL;
    const Py_ssize_t n = views[CUTOUTS].shape[0], size = views[CUTOUTS].shape[1];
    const int is_right = views[CUTOUTS].shape[2] == size && views[SIGMA].shape[0] == n && views[CENTRES].shape[0] == n &&
                         views[CENTRES].shape[1] == 2 && views[CONVERGED].shape[0] == n &&
                         views[WINDOWS].shape[0] == (Py_ssize_t)(sizeof(Gauss) / sizeof(double));
    if (is_right) {
        double *spare = room_for(2 * size, views, N_ARRAYS);
        if (!spare)
            return NULL;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++)
            find_centroid((const double *)views[CUTOUTS].buf + i * size * size, size, (double *)views[CENTRES].buf + 2 * i,
                          ((const double *)views[SIGMA].buf)[i], n_iterations, nearly_at_rest, views[WINDOWS].buf, spare,
                          (char *)views[CONVERGED].buf + i);
        Py_END_ALLOW_THREADS
        free(spare);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "cut-outs, widths and centres do not belong together");
}
