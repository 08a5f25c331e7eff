/* Light of stars in their windows by the profile of a night, and the fit of stars one by one: see profile.py and
 * misfit.py for what is computed, and for the form in NumPy. */

#include "star_fit.h"

IN_LANES void fill_light(const Profile *profile, const Place *place, double x, double y, Rows rows, double *light)
{
    /* quotients before the loop: divisions take longer than everything else */
    const double cosine = place->form[0], sine = place->form[1], per_area = 1.0 / place->form[4];
    const double major_x = cosine / place->form[2], major_y = sine / place->form[2];
    const double minor_x = -sine / place->form[3], minor_y = cosine / place->form[3];
    const double per_step = 1.0 / profile->step, last = profile->edge * per_step, *table = profile->table;
    const double left = (double)place->x0;
    const Py_ssize_t size = rows.size;
    double *radius = light + rows.first * size;
    for (Py_ssize_t row = rows.first; row < rows.end; row++, radius += size) {
        const double dy = (double)(place->y0 + row) - y, along_y = dy * major_y, across_y = dy * minor_y;
        for (int column = 0; column < (int)size; column++) { /* an int becomes a double in lanes */
            const double dx = (left + (double)column) - x;
            const double along = dx * major_x + along_y, across = dx * minor_x + across_y;
            double rho = sqrt(along * along + across * across) * per_step;
            rho = rho < last ? rho : last; /* the edge for NaN too */
            radius[column] = rho;
        }
    }
    for (Py_ssize_t i = rows.first * size; i < rows.end * size; i++) { /* all rows at once: few pixels are left over from lanes */
        const double rho = light[i];
        const int below = (int)rho;
        light[i] = (table[below] + (rho - (double)below) * (table[below + 1] - table[below])) * per_area;
    }
}

void fill_slopes(const Profile *profile, const Place *place, double x, double y, Rows rows, double step, double *slopes,
                 double *spare)
{
    const Py_ssize_t n = rows.size * rows.size;
    for (int axis = 0; axis < 2; axis++, slopes += n) {
        const double right = axis == 0 ? step : 0.0, up = axis == 1 ? step : 0.0;
        fill_light(profile, place, x + right, y + up, rows, slopes);
        fill_light(profile, place, x - right, y - up, rows, spare);
        for (Py_ssize_t i = rows.first * rows.size; i < rows.end * rows.size; i++)
            slopes[i] = (slopes[i] - spare[i]) * (0.5 / step);
    }
}

/* Light, its slopes, and its change with the logarithm of the width: four windows. */
static void fill_templates(const Profile *profile, const Place *place, double x, double y, Py_ssize_t size, double step,
                           double *templates)
{
    const Py_ssize_t n = size * size;
    double *slope_x = templates + n, *slope_y = slope_x + n, *wider = slope_y + n;
    const Rows all = {size, 0, size};
    fill_light(profile, place, x, y, all, templates);
    fill_slopes(profile, place, x, y, all, step, slope_x, wider);
    for (Py_ssize_t i = 0; i < n; i++) {
        const double dx = (double)(place->x0 + i % size) - x, dy = (double)(place->y0 + i / size) - y;
        wider[i] = dx * slope_x[i] + dy * slope_y[i] - 2.0 * templates[i];
    }
}

int is_profile(const Py_buffer *table, double edge, double step)
{
    return step > 0.0 && edge >= 0.0 && edge / step < (double)(table->shape[0] - 1);
}

PyObject *star_light(PyObject *module, PyObject *arguments)
{
    enum { TABLE, XY, X0, Y0, FORMS, LIGHT, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 1, FLOAT64, READ, "table"}, {NULL, 2, FLOAT64, READ, "xy"},    {NULL, 1, INT64, READ, "x0"},
        {NULL, 1, INT64, READ, "y0"},      {NULL, 2, FLOAT64, READ, "forms"}, {NULL, 4, FLOAT64, WRITE, "light"},
    };
    Py_buffer views[MOST_ARRAYS];
    double edge, table_step, step;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "ddd:star_light", &edge, &table_step, &step) < 0)
        return NULL;
    const Py_ssize_t n = views[LIGHT].shape[0], n_layers = views[LIGHT].shape[1], size = views[LIGHT].shape[2];
    int is_right = views[LIGHT].shape[3] == size && (n_layers == 1 || n_layers == 2) &&
                   views[XY].shape[0] == n && views[XY].shape[1] == 2 && views[X0].shape[0] == n &&
                   views[Y0].shape[0] == n && views[FORMS].shape[0] == n && views[FORMS].shape[1] == N_FORM &&
                   is_profile(&views[TABLE], edge, table_step);
    if (is_right) {
        double *spare = room_for(size * size, views, N_ARRAYS);
        if (!spare)
            return NULL;
        Py_BEGIN_ALLOW_THREADS
        const Profile profile = {views[TABLE].buf, edge, table_step};
        const Rows all = {size, 0, size};
        double *to = views[LIGHT].buf;
        for (Py_ssize_t i = 0; i < n; i++, to += n_layers * size * size) {
            const double x = ((const double *)views[XY].buf)[2 * i], y = ((const double *)views[XY].buf)[2 * i + 1];
            const Place place = {((const int64_t *)views[X0].buf)[i], ((const int64_t *)views[Y0].buf)[i],
                                 (const double *)views[FORMS].buf + N_FORM * i};
            if (n_layers == 1)
                fill_light(&profile, &place, x, y, all, to);
            else
                fill_slopes(&profile, &place, x, y, all, step, to, spare);
        }
        Py_END_ALLOW_THREADS
        free(spare);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "places, forms, table and light do not belong together");
}

/* ---------------------------------------------------------------- the fit */

#define N_FREE 4 /* flux, x, y, relative change of the width */

static double median_flux(const Star *star)
{
    double brightest = 0.0, lower, upper;
    for (Py_ssize_t i = 0; i < star->n; i++)
        if (star->near[i] && star->templates[i] > brightest)
            brightest = star->templates[i];
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < star->n; i++)
        if (star->near[i] && star->templates[i] > 0.3 * brightest && star->templates[i] > 0.0)
            star->spare[count++] = star->own[i] / star->templates[i];
    if (count == 0)
        return 0.0;
    lower = value_of_rank(star->spare, count, (count - 1) / 2);
    upper = value_of_rank(star->spare, count, count / 2 - (count == star->n));
    return 0.5 * (lower + upper);
}

IN_LANES static void find_residuals(const Star *star, const Limits *limits, double flux, double widening)
{
    const double *light = star->templates, *wider = star->templates + 3 * star->n;
    for (Py_ssize_t i = 0; i < star->n; i++) {
        const double model = flux * (light[i] + widening * wider[i]), foreign = star->foreign[i];
        const double by_form = star->unlike ? flux * star->unlike[i] : 0.0;
        const double all = model + foreign, photons = all > 0.0 ? all : (all <= 0.0 ? 0.0 : all);
        double variance = (limits->model_error * model) * (limits->model_error * model) + star->rms[i] * star->rms[i] +
                          by_form * by_form;
        variance += star->response ? photons / star->response[i] : photons;
        variance += (limits->foreign_error * foreign) * (limits->foreign_error * foreign);
        star->model[i] = model;
        star->errors[i] = star->near[i] ? sqrt(variance) : 1.0;
        star->deviation[i] = star->near[i] ? (star->own[i] - model) / star->errors[i] : 0.0;
    }
}

/* Whether a pixel is in the core of the star. */
static inline int in_core(const Star *star, Py_ssize_t i, double least)
{
    return star->near[i] && star->model[i] > least && star->model[i] > 0.0;
}

static double least_of_core(const Star *star, const Limits *limits)
{
    double brightest = 0.0; /* as that of the pixels that do not count */
    for (Py_ssize_t i = 0; i < star->n; i++)
        if (star->near[i] && star->model[i] > brightest)
            brightest = star->model[i];
    return limits->core * brightest;
}

double typical_deviation(const Star *star, const Limits *limits)
{
    const double least = least_of_core(star, limits);
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < star->n; i++)
        if (in_core(star, i, least))
            star->spare[count++] = fabs(star->deviation[i]);
    if (count == 0)
        return 1.0;
    const double typical = value_of_rank(star->spare, count, (count - 1) / 2) / limits->median_size;
    return typical > 1.0 ? typical : 1.0;
}

void find_stray(const Star *star, const Limits *limits, double tolerance)
{
    const Py_ssize_t size = star->size;
    double *away = star->spare;
    int is_any = 0;
    for (Py_ssize_t i = 0; i < star->n; i++) {
        const double deviation = star->deviation[i];
        away[i] = star->near[i] ? fabs(deviation) - (deviation > 0.0 ? limits->skew / star->errors[i] : 0.0) : 0.0;
        star->is_stray[i] = away[i] > limits->clip * tolerance;
        is_any = is_any || star->is_stray[i];
    }
    if (!is_any)
        return;
    char *is_far = (char *)(star->spare + star->n); /* before the neighbours are added */
    memcpy(is_far, star->is_stray, (size_t)star->n);
    for (Py_ssize_t y = 0; y < size; y++) {
        for (Py_ssize_t x = 0; x < size; x++) {
            if (!(away[y * size + x] > limits->grow * tolerance))
                continue;
            for (Py_ssize_t row = y > 0 ? y - 1 : 0; row <= y + 1 && row < size; row++)
                for (Py_ssize_t column = x > 0 ? x - 1 : 0; column <= x + 1 && column < size; column++)
                    if (is_far[row * size + column])
                        star->is_stray[y * size + x] = 1;
        }
    }
}

/* One step of the weighted least squares. */
static void take_step(const Star *star, const Limits *limits, const double *expected, double flux, double *place,
                      double *solution)
{
    double normal[N_FREE * N_FREE] = {0.0}, right[N_FREE] = {0.0}, scale[N_FREE];
    for (Py_ssize_t i = 0; i < star->n; i++) {
        if (!star->near[i] || star->is_stray[i])
            continue;
        const double weight = 1.0 / (star->errors[i] * star->errors[i]);
        double design[N_FREE];
        for (int k = 0; k < N_FREE; k++)
            design[k] = k ? star->templates[k * star->n + i] * flux : star->templates[i];
        for (int k = 0; k < N_FREE; k++) {
            const double weighted = design[k] * weight;
            right[k] += weighted * star->own[i];
            for (int l = 0; l <= k; l++)
                normal[k * N_FREE + l] += weighted * design[l];
        }
    }
    const double of_place = 1.0 / (limits->position_error * limits->position_error);
    for (int axis = 0; axis < 2; axis++) {
        right[1 + axis] += of_place * (expected[axis] - place[axis]);
        normal[(1 + axis) * (N_FREE + 1)] += of_place;
    }
    normal[3 * (N_FREE + 1)] += 1.0 / (limits->width_error * limits->width_error);
    for (int k = 0; k < N_FREE; k++) {
        const double diagonal = normal[k * (N_FREE + 1)];
        scale[k] = sqrt(diagonal > 0.0 ? diagonal : 1.0);
    }
    for (int k = 0; k < N_FREE; k++) {
        for (int l = 0; l < k; l++)
            normal[k * N_FREE + l] = normal[l * N_FREE + k] = normal[k * N_FREE + l] / scale[k] / scale[l];
        double *diagonal = &normal[k * (N_FREE + 1)];
        *diagonal = *diagonal / scale[k] / scale[k];
        *diagonal = (*diagonal > 1e-9 ? *diagonal : (*diagonal <= 1e-9 ? 1e-9 : *diagonal)) + 1e-12;
        solution[k] = right[k] / scale[k];
    }
    solve_equations(normal, solution, N_FREE);
    for (int k = 0; k < N_FREE; k++)
        solution[k] /= scale[k];
}

static double held(double value, double limit)
{
    return value > limit ? limit : (value < -limit ? -limit : value);
}

/* What the core deviates from the profile by, relative to its light, beyond noise. */
static double error_of_core(const Star *star, const Limits *limits)
{
    const double least = least_of_core(star, limits);
    double *noise = star->spare, *squares = star->spare + star->n;
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < star->n; i++) {
        if (!in_core(star, i, least))
            continue;
        const double error = star->errors[i] / star->model[i];
        const double residual = star->deviation[i] * star->errors[i] / star->model[i];
        noise[count] = error * error;
        squares[count++] = residual * residual;
    }
    if (count == 0)
        return 0.0;
    const double beyond = median_of(squares, count) / limits->median_square - median_of(noise, count);
    return sqrt(beyond > 0.0 ? beyond : 0.0);
}

/* Whether what is left does not fit either. */
static int is_no_star(const Star *star, const Limits *limits)
{
    double total = 0.0;
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < star->n; i++) {
        if (!star->near[i] || star->is_stray[i])
            continue;
        total += star->deviation[i] * star->deviation[i];
        count++;
    }
    const double freedom = count > 1 ? (double)(count - 1) : 1.0;
    return count > 1 && total / freedom > 1.0 + limits->no_star * sqrt(2.0 / freedom);
}

static void fit_star(const Star *star, const Profile *profile, const Place *place, const Limits *limits,
                     const double *expected, double *xy, double *flux, double *model_error, char *no_star)
{
    double solution[N_FREE], widening = 0.0;
    fill_templates(profile, place, xy[0], xy[1], star->size, limits->step, star->templates);
    *flux = median_flux(star);
    for (int iteration = 0; iteration < (int)limits->n_iterations; iteration++) {
        find_residuals(star, limits, *flux, widening);
        find_stray(star, limits, typical_deviation(star, limits));
        take_step(star, limits, expected, *flux, xy, solution);
        *flux = solution[0];
        widening = held(solution[3], 3.0 * limits->width_error);
        xy[0] += held(solution[1], limits->longest);
        xy[1] += held(solution[2], limits->longest);
        fill_templates(profile, place, xy[0], xy[1], star->size, limits->step, star->templates);
    }
    find_residuals(star, limits, *flux, widening);
    find_stray(star, limits, 1.0);
    *no_star = (char)is_no_star(star, limits);
    *model_error = error_of_core(star, limits);
}

/* Arrays of fit_stars, in their order. */
enum {
    ELECTRONS, RMS, NEAR, FOREIGN, RESPONSE, UNLIKE, X0, Y0, FORMS, EXPECTED, TABLE, LIMITS,
    XY, FLUX, MODEL_ERROR, NO_STAR, STRAY, DEVIATION, ERRORS, N_ARRAYS
};

/* Whether the arrays are those of the same stars. */
static int belong_together(const Py_buffer *views, const Wanted *wanted, double edge, double table_step)
{
    const Py_ssize_t n = views[ELECTRONS].shape[0], size = views[ELECTRONS].shape[1];
    int is_right = is_profile(&views[TABLE], edge, table_step) &&
                   views[LIMITS].shape[0] == (Py_ssize_t)(sizeof(Limits) / sizeof(double)) &&
                   views[FORMS].shape[1] == N_FORM && views[EXPECTED].shape[1] == 2 && views[XY].shape[1] == 2;
    for (int i = 0; i < N_ARRAYS; i++) {
        if (i == TABLE || i == LIMITS || !views[i].buf)
            continue;
        is_right = is_right && (i == UNLIKE || views[i].shape[0] == n);
        if (wanted[i].ndim == 3)
            is_right = is_right && views[i].shape[1] == size && views[i].shape[2] == size;
    }
    if (views[UNLIKE].buf)
        is_right = is_right && views[UNLIKE].shape[0] == size && views[UNLIKE].shape[1] == size;
    return is_right;
}

/* Fit star i; `room` is for its own pixels, its model, four templates and two windows. */
static void fit_one(const Py_buffer *views, const Profile *profile, Py_ssize_t i, double *room)
{
    const Py_ssize_t size = views[ELECTRONS].shape[1], n_pixels = size * size, at = i * n_pixels;
    const double *electrons = (const double *)views[ELECTRONS].buf + at;
    const Star star = {
        size, n_pixels,
        (const double *)views[RMS].buf + at, (const double *)views[FOREIGN].buf + at,
        views[RESPONSE].buf ? (const double *)views[RESPONSE].buf + at : NULL, views[UNLIKE].buf,
        (const char *)views[NEAR].buf + at,
        room, room + n_pixels, room + 2 * n_pixels, room + 6 * n_pixels,
        (double *)views[ERRORS].buf + at, (double *)views[DEVIATION].buf + at, (char *)views[STRAY].buf + at,
    };
    for (Py_ssize_t pixel = 0; pixel < n_pixels; pixel++)
        star.own[pixel] = star.near[pixel] ? electrons[pixel] - star.foreign[pixel] : 0.0;
    const Place place = {((const int64_t *)views[X0].buf)[i], ((const int64_t *)views[Y0].buf)[i],
                         (const double *)views[FORMS].buf + N_FORM * i};
    fit_star(&star, profile, &place, views[LIMITS].buf, (const double *)views[EXPECTED].buf + 2 * i,
             (double *)views[XY].buf + 2 * i, (double *)views[FLUX].buf + i, (double *)views[MODEL_ERROR].buf + i,
             (char *)views[NO_STAR].buf + i);
}

PyObject *fit_stars(PyObject *module, PyObject *arguments)
{
    Wanted wanted[N_ARRAYS] = {
        {NULL, 3, FLOAT64, READ, "electrons"}, {NULL, 3, FLOAT64, READ, "rms"},
        {NULL, 3, BOOL, READ, "near"},         {NULL, 3, FLOAT64, READ, "foreign"},
        {NULL, 3, FLOAT64, OPTIONAL, "response"}, {NULL, 2, FLOAT64, OPTIONAL, "unlike"},
        {NULL, 1, INT64, READ, "x0"},          {NULL, 1, INT64, READ, "y0"},
        {NULL, 2, FLOAT64, READ, "forms"},     {NULL, 2, FLOAT64, READ, "expected"},
        {NULL, 1, FLOAT64, READ, "table"},     {NULL, 1, FLOAT64, READ, "limits"},
        {NULL, 2, FLOAT64, WRITE, "xy"},       {NULL, 1, FLOAT64, WRITE, "flux"},
        {NULL, 1, FLOAT64, WRITE, "model_error"}, {NULL, 1, BOOL, WRITE, "is_no_star"},
        {NULL, 3, BOOL, WRITE, "is_stray"},    {NULL, 3, FLOAT64, WRITE, "deviation"},
        {NULL, 3, FLOAT64, WRITE, "errors"},
    };
    Py_buffer views[MOST_ARRAYS];
    PyObject *arrays;
    double edge, table_step;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!dd:fit_stars", &PyTuple_Type, &arrays, &edge, &table_step) ||
        open_given(arrays, wanted, views, N_ARRAYS, ":fit_stars") < 0)
        return NULL;
    const int is_right = belong_together(views, wanted, edge, table_step);
    if (is_right) {
        const Py_ssize_t n = views[ELECTRONS].shape[0], size = views[ELECTRONS].shape[1];
        double *room = room_for(8 * size * size, views, N_ARRAYS);
        if (!room)
            return NULL;
        Py_BEGIN_ALLOW_THREADS
        const Profile profile = {views[TABLE].buf, edge, table_step};
        for (Py_ssize_t i = 0; i < n; i++)
            fit_one(views, &profile, i, room);
        Py_END_ALLOW_THREADS
        free(room);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "windows and places of the stars do not belong together");
}

/* ---------------------------------------------------------------- pixels of a group */

void judge_window(const Star *star, const Limits *limits, double model_error, const double *unknown)
{
    for (Py_ssize_t i = 0; i < star->n; i++) {
        const double model = star->model[i], photons = model > 0.0 ? model : (model <= 0.0 ? 0.0 : model);
        double variance = (model_error * model) * (model_error * model) + star->rms[i] * star->rms[i];
        variance += star->response ? photons / star->response[i] : photons;
        variance += unknown ? unknown[i] : 0.0;
        star->errors[i] = sqrt(variance);
        star->deviation[i] = star->near[i] ? (star->own[i] - model) / star->errors[i] : 0.0;
    }
    find_stray(star, limits, unknown ? 1.0 : typical_deviation(star, limits));
}

PyObject *judge_pixels(PyObject *module, PyObject *arguments)
{
    enum { ELECTRONS, MODEL, RMS, RESPONSE, UNKNOWN, GOOD, LIMITS, ERRORS, STRAY, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "electrons"}, {NULL, 2, FLOAT64, READ, "model"},
        {NULL, 2, FLOAT64, READ, "rms"},       {NULL, 2, FLOAT64, OPTIONAL, "response"},
        {NULL, 2, FLOAT64, OPTIONAL, "unknown"}, {NULL, 2, BOOL, READ, "good"},
        {NULL, 1, FLOAT64, READ, "limits"},    {NULL, 2, FLOAT64, WRITE, "errors"},
        {NULL, 2, BOOL, WRITE, "is_stray"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":judge_pixels") < 0)
        return NULL;
    const Py_ssize_t size = views[ELECTRONS].shape[0], n = size * size;
    int is_right = views[LIMITS].shape[0] == (Py_ssize_t)(sizeof(Limits) / sizeof(double));
    for (int i = 0; i < N_ARRAYS; i++)
        if (i != LIMITS && views[i].buf)
            is_right = is_right && views[i].shape[0] == size && views[i].shape[1] == size;
    if (is_right) {
        double *room = room_for(3 * n, views, N_ARRAYS); /* deviations, and two windows to spare */
        if (!room)
            return NULL;
        Py_BEGIN_ALLOW_THREADS
        const Limits *limits = views[LIMITS].buf;
        const Star group = {
            .size = size, .n = n, .near = views[GOOD].buf, .own = views[ELECTRONS].buf, .model = views[MODEL].buf,
            .rms = views[RMS].buf, .response = views[RESPONSE].buf, .spare = room + n, .errors = views[ERRORS].buf,
            .deviation = room, .is_stray = views[STRAY].buf,
        };
        judge_window(&group, limits, limits->model_error, views[UNKNOWN].buf);
        Py_END_ALLOW_THREADS
        free(room);
    }
    return release_arrays(views, N_ARRAYS, is_right ? NULL : "pixels of the group do not belong together");
}
