/* Fluxes and places of stars that overlap, fitted together in one window: see places.py and joint_fit.py for what is
 * computed, and for the form in NumPy. */

#include "star_fit.h"

/* Holds the equations of stars that nothing tells apart. */
#define TINY 1e-14

#define LANES 8 /* numbers that are added up side by side */
#define BATCH 4 /* pixels that are added to the equations at once */

/* Pixels that are to be added: their electrons, weights, and rows of what they depend on. */
typedef struct {
    double electrons[BATCH], weight[BATCH], *design;
    int n_pixels;
} Batch;

/* A group of stars in one window, and room for the fit. */
typedef struct {
    Star window;
    Rows rows; /* those with pixels that count: there is no light in the others */
    Py_ssize_t n_stars;
    const char *good;
    const double *expected; /* x and y of each star */
    double *light, *slopes; /* of each star: a window, and two */
    double *normal, *right; /* of flux, x and y of each star */
    double *scale;          /* of each of these */
    double *sums;           /* the equations while pixels are added, in rows of `width` numbers */
    Py_ssize_t width;
    Batch batch;
    double position_error, largest_step;
} Group;

static void make_light(Group *group, const Profile *profile, const Place *places, const double *xy)
{
    for (Py_ssize_t k = 0; k < group->n_stars; k++)
        fill_light(profile, &places[k], xy[2 * k], xy[2 * k + 1], group->rows, group->light + k * group->window.n);
}

static void make_model(Group *group, const double *flux)
{
    double *model = group->window.model;
    memset(model, 0, (size_t)group->window.n * sizeof *model);
    for (Py_ssize_t k = 0; k < group->n_stars; k++)
        for (Py_ssize_t i = 0; i < group->window.n; i++)
            model[i] += flux[k] * group->light[k * group->window.n + i];
}

/* Solve the normal equations of `n` unknowns; what nothing determines is 0. The solution is in their right side. */
static void solve_normal(Group *group, int n)
{
    double *normal = group->normal, *right = group->right, *scale = group->scale;
    for (int k = 0; k < n; k++)
        scale[k] = normal[k * n + k] > 0.0 ? sqrt(normal[k * n + k]) : 0.0;
    for (int k = 0; k < n; k++) {
        for (int l = 0; l <= k; l++) {
            const double of_both = scale[k] * scale[l];
            normal[k * n + l] = normal[l * n + k] = of_both > 0.0 ? normal[k * n + l] / of_both : 0.0;
        }
        normal[k * n + k] = 1.0 + TINY;
        right[k] = scale[k] > 0.0 ? right[k] / scale[k] : 0.0;
    }
    solve_equations(normal, right, n);
    for (int k = 0; k < n; k++)
        right[k] = scale[k] > 0.0 ? right[k] / scale[k] : 0.0;
}

/* Add some pixels to the equations, one after the other; columns of the lower half are filled up to whole lanes. */
APART IN_LANES static void add_batch(const Batch *batch, double *restrict sums, double *restrict right, int n, Py_ssize_t width)
{
    const double *restrict one = batch->design, *restrict two = one + width, *restrict three = two + width;
    const double *restrict four = three + width, *weight = batch->weight, *electrons = batch->electrons;
    for (int k = 0; k < n; k++) {
        const double a = one[k] * weight[0], b = two[k] * weight[1], c = three[k] * weight[2], d = four[k] * weight[3];
        right[k] = (((right[k] + a * electrons[0]) + b * electrons[1]) + c * electrons[2]) + d * electrons[3];
        for (Py_ssize_t first = 0; first <= k; first += LANES)
            for (Py_ssize_t l = first; l < first + LANES; l++) {
                double sum = sums[k * width + l] + a * one[l];
                sum += b * two[l];
                sum += c * three[l];
                sums[k * width + l] = sum + d * four[l];
            }
    }
}

/* Add the pixels of the batch, which is empty then; what is missing in it adds nothing. */
static void add_all(Group *group, int n)
{
    Batch *batch = &group->batch;
    for (int pixel = batch->n_pixels; pixel < BATCH; pixel++) {
        memset(batch->design + pixel * group->width, 0, (size_t)group->width * sizeof *batch->design);
        batch->weight[pixel] = batch->electrons[pixel] = 0.0;
    }
    add_batch(batch, group->sums, group->right, n, group->width);
    batch->n_pixels = 0;
}

/* Room in the batch for the design of the next pixel, which counts with a weight. */
static double *next_pixel(Group *group, int n, double electrons, double weight)
{
    Batch *batch = &group->batch;
    if (batch->n_pixels == BATCH)
        add_all(group, n);
    batch->electrons[batch->n_pixels] = electrons;
    batch->weight[batch->n_pixels] = weight;
    return batch->design + batch->n_pixels++ * group->width;
}

static void clear_equations(Group *group, int n)
{
    memset(group->sums, 0, (size_t)n * (size_t)group->width * sizeof *group->sums);
    memset(group->right, 0, (size_t)n * sizeof *group->right);
}

/* The equations as they are solved. */
static void close_equations(Group *group, int n)
{
    add_all(group, n);
    for (int k = 0; k < n; k++)
        memcpy(group->normal + k * n, group->sums + k * group->width, (size_t)(k + 1) * sizeof *group->normal);
}

/* Fluxes with the places as they are; pixels count alike. */
static void first_fluxes(Group *group, double *flux)
{
    const int n = (int)group->n_stars;
    clear_equations(group, n);
    for (Py_ssize_t i = 0; i < group->window.n; i++) {
        if (!group->good[i])
            continue;
        double *design = next_pixel(group, n, group->window.own[i], 1.0);
        for (int k = 0; k < n; k++)
            design[k] = group->light[k * group->window.n + i];
    }
    close_equations(group, n);
    solve_normal(group, n);
    memcpy(flux, group->right, (size_t)n * sizeof *flux);
}

/* One step of fluxes and places; the light of the stars is to be made again after it. */
static void step_together(Group *group, double *xy, double *flux)
{
    const Py_ssize_t n_pixels = group->window.n;
    const int n_stars = (int)group->n_stars, n = 3 * n_stars;
    const double of_place = 1.0 / (group->position_error * group->position_error);
    clear_equations(group, n);
    for (Py_ssize_t i = 0; i < n_pixels; i++) {
        const double error = group->window.errors[i];
        if (!group->good[i] || group->window.is_stray[i] || !isfinite(error))
            continue;
        double *design = next_pixel(group, n, group->window.own[i], 1.0 / (error * error));
        for (int k = 0; k < n_stars; k++) {
            design[k] = group->light[k * n_pixels + i];
            for (int axis = 0; axis < 2; axis++)
                design[n_stars + 2 * k + axis] = flux[k] * group->slopes[(2 * k + axis) * n_pixels + i];
        }
    }
    close_equations(group, n);
    for (int k = 0; k < 2 * n_stars; k++) {
        group->normal[(n_stars + k) * (n + 1)] += of_place;
        group->right[n_stars + k] -= of_place * (xy[k] - group->expected[k]);
    }
    solve_normal(group, n);
    memcpy(flux, group->right, (size_t)n_stars * sizeof *flux);
    for (int k = 0; k < 2 * n_stars; k++) {
        const double step = group->right[n_stars + k], most = group->largest_step;
        xy[k] += step > most ? most : (step < -most ? -most : step);
    }
}

/* Fit a group; 0 when pixels do not belong to its stars and nobody has said what the profile gets wrong there. */
static int fit_together(Group *group, const Profile *profile, const Place *places, const Limits *limits,
                        double larger_error, double *xy, double *flux)
{
    make_light(group, profile, places, xy);
    first_fluxes(group, flux);
    for (int iteration = 0; iteration < (int)limits->n_iterations; iteration++) {
        if (iteration)
            make_light(group, profile, places, xy);
        for (Py_ssize_t k = 0; k < group->n_stars; k++)
            fill_slopes(profile, &places[k], xy[2 * k], xy[2 * k + 1], group->rows, limits->step,
                        group->slopes + 2 * k * group->window.n, group->window.spare);
        make_model(group, flux);
        judge_window(&group->window, limits, limits->model_error, NULL);
        if (memchr(group->window.is_stray, 1, (size_t)group->window.n)) {
            if (isnan(larger_error))
                return 0;
            judge_window(&group->window, limits, larger_error, NULL);
        }
        step_together(group, xy, flux);
    }
    return 1;
}

/* Rows from the first to the last with a pixel that counts. */
static Rows counted_rows(const char *good, Py_ssize_t size)
{
    Rows rows = {size, 0, size};
    while (rows.first < size && !memchr(good + rows.first * size, 1, (size_t)size))
        rows.first++;
    while (rows.end > rows.first && !memchr(good + (rows.end - 1) * size, 1, (size_t)size))
        rows.end--;
    return rows;
}

/* Arrays of fit_group, in their order. */
enum { ELECTRONS, RMS, RESPONSE, GOOD, TABLE, X0, Y0, FORMS, EXPECTED, LIMITS, XY, FLUX, N_ARRAYS };

/* Whether the arrays are those of one window and its stars. */
static int belong_together(const Py_buffer *views, double edge, double table_step)
{
    const Py_ssize_t size = views[ELECTRONS].shape[0], n_stars = views[XY].shape[0];
    int is_right = is_profile(&views[TABLE], edge, table_step) && views[FORMS].shape[1] == N_FORM && n_stars < 1000 &&
                   views[LIMITS].shape[0] == (Py_ssize_t)(sizeof(Limits) / sizeof(double));
    for (int i = ELECTRONS; i <= GOOD; i++)
        is_right = is_right && (!views[i].buf || (views[i].shape[0] == size && views[i].shape[1] == size));
    for (int i = X0; i < N_ARRAYS; i++)
        is_right = is_right && (i == LIMITS || views[i].shape[0] == n_stars);
    return is_right && views[EXPECTED].shape[1] == 2 && views[XY].shape[1] == 2;
}

/* Fit the group of some arrays; as fit_together, or -1 where there is no memory. */
static int fit_arrays(const Py_buffer *views, const Profile *profile, double largest_step, double larger_error)
{
    const Py_ssize_t size = views[ELECTRONS].shape[0], n = size * size, n_stars = views[XY].shape[0];
    const size_t n_free = 3 * (size_t)n_stars, width = (n_free + LANES - 1) / LANES * LANES, n_windows = 5 + 3 * (size_t)n_stars;
    const Limits *limits = views[LIMITS].buf;
    double *windows = calloc(n_windows * (size_t)n + 1, sizeof *windows);
    double *equations = calloc(n_free * n_free + 2 * n_free + 1, sizeof *equations);
    double *sums = calloc((n_free + BATCH) * width + 1, sizeof *sums);
    Place *places = calloc((size_t)n_stars + 1, sizeof *places);
    char *is_stray = calloc((size_t)n + 1, 1);
    int is_done = -1;
    if (windows && equations && sums && places && is_stray) {
        for (Py_ssize_t k = 0; k < n_stars; k++)
            places[k] = (Place){((const int64_t *)views[X0].buf)[k], ((const int64_t *)views[Y0].buf)[k],
                                (const double *)views[FORMS].buf + N_FORM * k};
        Group group = {
            .window = {.size = size, .n = n, .near = views[GOOD].buf, .own = views[ELECTRONS].buf,
                       .rms = views[RMS].buf, .response = views[RESPONSE].buf, .is_stray = is_stray,
                       .model = windows, .errors = windows + n, .deviation = windows + 2 * n,
                       .spare = windows + 3 * n},
            .rows = counted_rows(views[GOOD].buf, size), .n_stars = n_stars, .good = views[GOOD].buf, .expected = views[EXPECTED].buf,
            .light = windows + 5 * n, .slopes = windows + (5 + n_stars) * n, .normal = equations,
            .right = equations + n_free * n_free, .scale = equations + n_free * n_free + n_free,
            .sums = sums, .width = (Py_ssize_t)width, .batch = {.design = sums + n_free * width},
            .position_error = limits->position_error, .largest_step = largest_step,
        };
        is_done = fit_together(&group, profile, places, limits, larger_error, views[XY].buf, views[FLUX].buf);
    }
    free(windows);
    free(equations);
    free(sums);
    free(places);
    free(is_stray);
    return is_done;
}

PyObject *fit_group(PyObject *module, PyObject *arguments)
{
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "electrons"}, {NULL, 2, FLOAT64, READ, "rms"}, {NULL, 2, FLOAT64, OPTIONAL, "response"},
        {NULL, 2, BOOL, READ, "good"},         {NULL, 1, FLOAT64, READ, "table"}, {NULL, 1, INT64, READ, "x0"},
        {NULL, 1, INT64, READ, "y0"},          {NULL, 2, FLOAT64, READ, "forms"}, {NULL, 2, FLOAT64, READ, "expected"},
        {NULL, 1, FLOAT64, READ, "limits"},    {NULL, 2, FLOAT64, WRITE, "xy"},  {NULL, 1, FLOAT64, WRITE, "flux"},
    };
    Py_buffer views[MOST_ARRAYS];
    PyObject *arrays;
    double edge, table_step, largest_step, larger_error;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!dddd:fit_group", &PyTuple_Type, &arrays, &edge, &table_step, &largest_step,
                          &larger_error) ||
        open_given(arrays, wanted, views, N_ARRAYS, ":fit_group") < 0)
        return NULL;
    const int is_right = belong_together(views, edge, table_step);
    int is_done = 1;
    if (is_right) {
        Py_BEGIN_ALLOW_THREADS
        const Profile profile = {views[TABLE].buf, edge, table_step};
        is_done = fit_arrays(views, &profile, largest_step, larger_error);
        Py_END_ALLOW_THREADS
    }
    PyObject *released = release_arrays(views, N_ARRAYS, is_right ? NULL : "windows and stars do not belong together");
    if (!released)
        return NULL;
    Py_DECREF(released);
    return is_done < 0 ? PyErr_NoMemory() : PyBool_FromLong(is_done);
}
