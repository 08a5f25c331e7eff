/* Stars held against the profile before any of them is fitted: see judging.py for what is computed, and for the form in
 * NumPy. */

#include "arrays.h"
#include "sums.h"

PyObject *fluxes_alone(PyObject *module, PyObject *arguments)
{
    enum { PIXELS, LIGHT, USED, OF, FLUX, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 3, FLOAT64, READ, "pixels"}, {NULL, 3, FLOAT64, READ, "light"}, {NULL, 3, BOOL, READ, "used"},
        {NULL, 1, INT64, READ, "of"},       {NULL, 1, FLOAT64, WRITE, "flux"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":fluxes_alone") < 0)
        return NULL;
    const Py_ssize_t n = views[PIXELS].shape[0], n_stars = views[LIGHT].shape[0];
    const Py_ssize_t n_pixels = views[PIXELS].shape[1] * views[PIXELS].shape[2];
    const int64_t *of = views[OF].buf;
    int is_right = views[OF].shape[0] == n && views[FLUX].shape[0] == n && views[USED].shape[0] == n_stars;
    for (int i = LIGHT; i <= USED; i++)
        is_right = is_right && views[i].shape[1] == views[PIXELS].shape[1] && views[i].shape[2] == views[PIXELS].shape[2];
    for (Py_ssize_t i = 0; is_right && i < n; i++)
        is_right = of[i] >= 0 && of[i] < n_stars;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++) {
            const double *pixels = (const double *)views[PIXELS].buf + i * n_pixels;
            const double *light = (const double *)views[LIGHT].buf + of[i] * n_pixels;
            const char *used = (const char *)views[USED].buf + of[i] * n_pixels;
            double weight = 0.0, signal = 0.0;
            for (Py_ssize_t p = 0; p < n_pixels; p++)
                if (used[p]) {
                    weight += light[p] * light[p];
                    signal += light[p] * pixels[p];
                }
            ((double *)views[FLUX].buf)[i] = signal / (weight > 0.0 ? weight : 1.0);
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "pixels, light and fluxes do not belong together");
}

/* Numbers of judging.py, in this order. */
typedef struct {
    double model_error, drowned, foreign_error, skew, suspect, suspect_sum;
} Check;

/* A star with its pixels; what it is given may lack `foreign` and `response`. */
typedef struct {
    Py_ssize_t n, rms_step, noise_step; /* a step of 0: one number for all pixels */
    double flux, least;
    const double *electrons, *light, *rms, *noise, *foreign, *response;
    const char *good, *saturated;
    char *judged;
    double *deviation;
} Checked;

/* Mark the pixels that the star is judged by; whether none of those near it is saturated. */
static int choose_pixels(const Checked *star, const Check *check)
{
    int is_whole = 1;
    for (Py_ssize_t p = 0; p < star->n; p++) {
        const int is_near = star->light[p] > star->least;
        star->judged[p] = is_near && star->good[p] && !star->saturated[p] && isfinite(star->noise[p * star->noise_step]);
        is_whole &= !(is_near && star->saturated[p]);
        if (star->foreign)
            star->judged[p] &= star->foreign[p] < check->drowned * fabs(star->flux * star->light[p]) + star->rms[p * star->rms_step];
    }
    return is_whole;
}

/* Reduced chi-square of the pixels that a star is judged by; NaN below two. `above` becomes what the one that stands out
 * most is off by, in its errors, and `n_judged` how many there are; their deviations are kept. */
static double compare_pixels(const Checked *star, const Check *check, double *above, Py_ssize_t *n_judged)
{
    double total = 0.0;
    *above = 0.0;
    *n_judged = 0;
    for (Py_ssize_t p = 0; p < star->n; p++) {
        star->deviation[p] = 0.0;
        if (!star->judged[p])
            continue;
        const double own = star->flux * star->light[p], foreign = star->foreign ? star->foreign[p] : 0.0;
        const double of_model = check->model_error * own, photons = own + foreign > 0.0 ? own + foreign : 0.0;
        const double noise = star->noise[p * star->noise_step];
        double variance = of_model * of_model + noise * noise;
        variance += star->response ? photons / star->response[p] : photons;
        if (star->foreign)
            variance += check->foreign_error * foreign * (check->foreign_error * foreign);
        const double error = sqrt(variance), deviation = (star->electrons[p] - own - foreign) / error;
        const double size = deviation > 0.0 ? deviation - check->skew / error : -deviation;
        star->deviation[p] = deviation;
        total += deviation * deviation;
        *above = size > *above ? size : *above;
        *n_judged += 1;
    }
    return *n_judged > 1 ? total / (double)(*n_judged - 1) : (double)NAN;
}

PyObject *compare_stars(PyObject *module, PyObject *arguments)
{
    enum { ELECTRONS, LIGHT, RMS, NOISE, FOREIGN, RESPONSE, GOOD, SATURATED, JUDGED, DEVIATION, FLUX, LEAST, CHI2, SUSPECT, CHECK,
           N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 3, FLOAT64, READ, "electrons"},   {NULL, 3, FLOAT64, READ, "light"}, {NULL, 3, FLOAT64, READ, "rms"},
        {NULL, 3, FLOAT64, READ, "noise"},       {NULL, 3, FLOAT64, OPTIONAL, "foreign"}, {NULL, 3, FLOAT64, OPTIONAL, "response"},
        {NULL, 3, BOOL, READ, "good"},           {NULL, 3, BOOL, READ, "saturated"}, {NULL, 3, BOOL, WRITE, "judged"},
        {NULL, 3, FLOAT64, WRITE, "deviation"},  {NULL, 1, FLOAT64, READ, "flux"},  {NULL, 1, FLOAT64, READ, "least"},
        {NULL, 1, FLOAT64, WRITE, "chi2"},       {NULL, 1, BOOL, WRITE, "suspect"}, {NULL, 1, FLOAT64, READ, "check"},
    };
    Py_buffer views[MOST_ARRAYS];
    PyObject *arrays;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!:compare_stars", &PyTuple_Type, &arrays) ||
        open_given(arrays, wanted, views, N_ARRAYS, ":compare_stars") < 0)
        return NULL;
    const Py_ssize_t n = views[FLUX].shape[0], ny = views[ELECTRONS].shape[1], nx = views[ELECTRONS].shape[2];
    int is_right = views[CHECK].shape[0] == sizeof(Check) / sizeof(double);
    for (int i = 0; i <= DEVIATION; i++) {
        const int is_alike = (i == RMS || i == NOISE) && views[i].shape[1] == 1 && views[i].shape[2] == 1;
        const int is_window = is_alike || !views[i].buf || (views[i].shape[1] == ny && views[i].shape[2] == nx);
        is_right = is_right && is_window && (!views[i].buf || views[i].shape[0] == n);
    }
    for (int i = LEAST; i <= SUSPECT; i++)
        is_right = is_right && views[i].shape[0] == n;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        const Check *check = views[CHECK].buf;
        for (Py_ssize_t i = 0; i < n; i++) {
            const Py_ssize_t first = i * ny * nx;
            const double *windows[RESPONSE + 1];
            for (int k = 0; k <= RESPONSE; k++)
                windows[k] = views[k].buf ? (const double *)views[k].buf + i * views[k].shape[1] * views[k].shape[2] : NULL;
            const Checked star = {ny * nx, views[RMS].shape[2] > 1, views[NOISE].shape[2] > 1, ((const double *)views[FLUX].buf)[i], ((const double *)views[LEAST].buf)[i],
                                  windows[ELECTRONS], windows[LIGHT], windows[RMS], windows[NOISE], windows[FOREIGN], windows[RESPONSE],
                                  (const char *)views[GOOD].buf + first, (const char *)views[SATURATED].buf + first,
                                  (char *)views[JUDGED].buf + first, (double *)views[DEVIATION].buf + first};
            double above;
            Py_ssize_t n_judged;
            const int is_whole = choose_pixels(&star, check);
            const double chi2 = compare_pixels(&star, check, &above, &n_judged);
            const double freedom = n_judged > 2 ? (double)(n_judged - 1) : 1.0;
            const int is_too_large = chi2 > 1.0 + check->suspect_sum * sqrt(2.0 / freedom);
            ((char *)views[SUSPECT].buf)[i] = is_whole && (above > check->suspect || is_too_large);
            ((double *)views[CHI2].buf)[i] = is_whole ? chi2 : (double)NAN; /* of a saturated star nobody knows the profile */
        }
        Py_END_ALLOW_THREADS
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "windows, fluxes and limits do not belong together");
}
