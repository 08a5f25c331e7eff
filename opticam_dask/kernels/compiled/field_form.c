/* Width and form of the stars of a frame, and how these change over it: see field_form.py for what is computed, and for
 * the form in NumPy. */

#include "field_fit.h"
#include "sums.h"

#define PLANE 3 /* terms of a plane */

/* Stars with their places (2, n), moments (3, n) and relative errors; what follows from these; and room to work in. */
typedef struct {
    Py_ssize_t n;
    const double *uv, *noise;
    double *moments, *doubt, *error, *trust, *counts;
    double *design, *weight, *distance;
    Entry *entries;
} Field;

/* What errors and doubts make of the stars: their errors, and what they count for medians and for means. */
static void weigh(Field *field, const Limits *limits)
{
    for (Py_ssize_t i = 0; i < field->n; i++)
        field->weight[i] = field->noise[i];
    const double usual = median_of(field->weight, field->n);
    for (Py_ssize_t i = 0; i < field->n; i++) {
        const double noise = field->noise[i], doubt = field->doubt[i], relative = doubt / limits->doubted;
        const double least = noise > usual ? noise : usual;
        field->error[i] = sqrt(noise * noise + doubt * doubt);
        field->trust[i] = 1.0 / (1.0 + relative * relative);
        field->counts[i] = 1.0 / (least * least + doubt * doubt);
    }
}

static double median_by(Field *field, const double *values, const double *weights)
{
    for (Py_ssize_t i = 0; i < field->n; i++)
        field->entries[i] = (Entry){values[i], weights[i], i};
    return weighted_median(field->entries, field->n);
}

/* 1, u, v, u^2, u v, v^2 at the places of the stars, or the first of these. */
static void set_terms(Field *field, int n_terms)
{
    for (Py_ssize_t i = 0; i < field->n; i++) {
        const double u = field->uv[i], v = field->uv[field->n + i];
        const double terms[MOST_TERMS] = {1.0, u, v, u * u, u * v, v * v};
        memcpy(field->design + i * n_terms, terms, (size_t)n_terms * sizeof *terms);
    }
}

static Stars stars_of(const Field *field, int n_terms)
{
    return (Stars){field->n, n_terms, field->design, field->moments, field->error, field->trust};
}

static void mean_moments(Field *field, const Limits *limits, double *mean)
{
    for (int moment = 0; moment < N_MOMENTS; moment++)
        mean[moment] = median_by(field, field->moments + moment * field->n, field->counts);
    set_terms(field, 1);
    const Stars stars = stars_of(field, 1);
    fit_robustly(&stars, limits, mean, field->weight, field->distance, field->entries);
}

/* Smallest and largest eigenvalue of a symmetric matrix, which is overwritten, by rotations. */
static void extreme_eigenvalues(double matrix[MOST_TERMS][MOST_TERMS], int n, double *least, double *most)
{
    for (int sweep = 0; sweep < 30; sweep++) {
        double beside = 0.0, along = 0.0;
        for (int p = 0; p < n; p++)
            for (int q = 0; q < n; q++)
                *(p == q ? &along : &beside) += matrix[p][q] * matrix[p][q];
        if (!(beside > 1e-30 * along))
            break;
        for (int p = 0; p < n; p++)
            for (int q = p + 1; q < n; q++) {
                if (matrix[p][q] == 0.0)
                    continue;
                const double theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                const double tangent = (theta < 0.0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1.0));
                const double cosine = 1.0 / sqrt(tangent * tangent + 1.0), sine = tangent * cosine;
                for (int k = 0; k < n; k++) {
                    const double one = matrix[k][p], other = matrix[k][q];
                    matrix[k][p] = cosine * one - sine * other;
                    matrix[k][q] = sine * one + cosine * other;
                }
                for (int k = 0; k < n; k++) {
                    const double one = matrix[p][k], other = matrix[q][k];
                    matrix[p][k] = cosine * one - sine * other;
                    matrix[q][k] = sine * one + cosine * other;
                }
            }
    }
    *least = *most = matrix[0][0];
    for (int p = 1; p < n; p++) {
        *least = matrix[p][p] < *least ? matrix[p][p] : *least;
        *most = matrix[p][p] > *most ? matrix[p][p] : *most;
    }
}

/* Whether the places of the stars tell the terms of the design apart. */
static int tells_terms(const Field *field, int n_terms, double worst)
{
    double squares[MOST_TERMS][MOST_TERMS] = {{0.0}}, least, most;
    for (Py_ssize_t i = 0; i < field->n; i++)
        for (int t = 0; t < n_terms; t++)
            for (int u = 0; u < n_terms; u++)
                squares[t][u] += field->design[i * n_terms + t] * field->design[i * n_terms + u];
    extreme_eigenvalues(squares, n_terms, &least, &most);
    return worst * worst * least >= most;
}

static double from_0_to_1(double value)
{
    return value > 0.0 ? (value < 1.0 ? value : 1.0) : 0.0;
}

/* How the moments change over the frame, from those of the mean star: coefficients (3, 6) of the terms. */
static void change_over_field(Field *field, const Limits *limits, const double *mean, double found[N_MOMENTS][MOST_TERMS])
{
    double sum = 0.0, squares = 0.0, start[N_MOMENTS][MOST_TERMS] = {{0.0}};
    for (Py_ssize_t i = 0; i < field->n; i++) {
        sum += field->counts[i];
        squares += field->counts[i] * field->counts[i];
    }
    for (int moment = 0; moment < N_MOMENTS; moment++)
        start[moment][0] = mean[moment];
    memset(found, 0, N_MOMENTS * sizeof *found);
    for (int first = 1, n_terms = PLANE; n_terms <= MOST_TERMS; first = PLANE, n_terms += MOST_TERMS - PLANE) {
        const double enough = from_0_to_1((sum * sum / squares - n_terms - 1.0) / (n_terms - 1.0));
        double coefficients[N_MOMENTS * MOST_TERMS];
        set_terms(field, n_terms);
        if (enough == 0.0 || !tells_terms(field, n_terms, limits->worst_places))
            break;
        for (int i = 0; i < N_MOMENTS * n_terms; i++)
            coefficients[i] = start[i / n_terms][i % n_terms];
        const Stars stars = stars_of(field, n_terms);
        const double size = fit_robustly(&stars, limits, coefficients, field->weight, field->distance, field->entries);
        const double told = significance(&stars, limits, field->weight, size, first);
        const double doubt = limits->insignificant / (limits->insignificant > told ? limits->insignificant : told);
        const double part = enough * (1.0 - doubt * doubt);
        for (int moment = 0; moment < N_MOMENTS; moment++)
            for (int t = 0; t < MOST_TERMS; t++) {
                found[moment][t] *= 1.0 - part;
                if (t >= n_terms)
                    continue;
                start[moment][t] = coefficients[moment * n_terms + t];
                found[moment][t] += part * (start[moment][t] - (t ? 0.0 : mean[moment]));
            }
    }
}

/* Stars without what companions that nobody sees add to their moments; 0 where none has any. */
static int without_companions(const Field *stars, const Limits *limits, const double *mean,
                              double change[N_MOMENTS][MOST_TERMS], Field *single)
{
    const Py_ssize_t n = stars->n;
    const double tells = from_0_to_1(((double)n - limits->few) / limits->few);
    double *expected = single->design, widths = 0.0; /* room for (3, n) */
    int is_any = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double u = stars->uv[i], v = stars->uv[n + i], terms[MOST_TERMS] = {1.0, u, v, u * u, u * v, v * v};
        for (int moment = 0; moment < N_MOMENTS; moment++) {
            double sum = 0.0;
            for (int t = 0; t < MOST_TERMS; t++)
                sum += change[moment][t] * terms[t];
            expected[moment * n + i] = mean[moment] + sum;
        }
        widths += expected[i] + expected[n + i];
    }
    const double size = 0.5 * widths / (double)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        double away[N_MOMENTS];
        for (int moment = 0; moment < N_MOMENTS; moment++)
            away[moment] = (stars->moments[moment * n + i] - expected[moment * n + i]) / size;
        const double along = away[0] - away[1], across = 2.0 * away[2], longer = sqrt(along * along + across * across);
        const double wider = 0.5 * (away[0] + away[1] + longer), added = longer < wider ? longer : wider > 0.0 ? wider : 0.0;
        const double noise = limits->elongated * stars->noise[i], beyond = added * added - limits->alike * limits->alike - noise * noise;
        const double excess = beyond > 0.0 ? tells * sqrt(beyond) : 0.0, left = limits->still_longer * excess;
        const double length = longer > limits->alike ? longer : limits->alike;
        const double taken = 0.5 * size * (excess < limits->longest ? excess : limits->longest);
        single->moments[i] = stars->moments[i] - taken * (1.0 + along / length);
        single->moments[n + i] = stars->moments[n + i] - taken * (1.0 - along / length);
        single->moments[2 * n + i] = stars->moments[2 * n + i] - taken * (across / length);
        single->doubt[i] = sqrt(stars->doubt[i] * stars->doubt[i] + left * left);
        is_any |= excess != 0.0;
    }
    return is_any;
}

/* Width (sigma: square root of the mean of both variances), mean moments, and their change over the frame. */
static void find_form(Field *stars, Field *single, const Limits *limits, double *form, double terms[N_MOMENTS][MOST_TERMS])
{
    double *mean = form + 1, change[N_MOMENTS][MOST_TERMS];
    Field *last = stars;
    weigh(stars, limits);
    mean_moments(stars, limits, mean);
    change_over_field(stars, limits, mean, terms);
    memcpy(change, terms, sizeof change);
    for (int round = 0; round < (int)limits->n_rounds; round++) {
        const double before[N_MOMENTS] = {mean[0], mean[1], mean[2]};
        double moved = 0.0;
        last = without_companions(stars, limits, mean, change, single) ? single : stars;
        if (last == stars)
            break;
        weigh(single, limits);
        mean_moments(single, limits, mean);
        for (int moment = 0; moment < N_MOMENTS; moment++)
            moved = fabs(mean[moment] - before[moment]) > moved ? fabs(mean[moment] - before[moment]) : moved;
        if (moved < limits->settled * (mean[0] + mean[1]))
            break;
    }
    weigh(last, limits);
    if (last == single)
        change_over_field(single, limits, mean, terms);
    for (Py_ssize_t i = 0; i < stars->n; i++)
        last->distance[i] = sqrt((last->moments[i] + last->moments[stars->n + i]) / 2.0);
    form[0] = median_by(last, last->distance, last->trust);
}

PyObject *field_form(PyObject *module, PyObject *arguments)
{
    enum { UV, MOMENTS, NOISE, DOUBT, LIMITS, FORM, TERMS, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "uv"},     {NULL, 2, FLOAT64, READ, "moments"}, {NULL, 1, FLOAT64, READ, "noise"},
        {NULL, 1, FLOAT64, READ, "doubt"},  {NULL, 1, FLOAT64, READ, "limits"},  {NULL, 1, FLOAT64, WRITE, "form"},
        {NULL, 2, FLOAT64, WRITE, "terms"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":field_form") < 0)
        return NULL;
    const Py_ssize_t n = views[NOISE].shape[0];
    if (n < 1 || views[UV].shape[0] != 2 || views[UV].shape[1] != n || views[MOMENTS].shape[0] != N_MOMENTS ||
        views[MOMENTS].shape[1] != n || views[DOUBT].shape[0] != n || views[FORM].shape[0] != 1 + N_MOMENTS ||
        views[TERMS].shape[0] != N_MOMENTS || views[TERMS].shape[1] != MOST_TERMS ||
        views[LIMITS].shape[0] != (Py_ssize_t)(sizeof(Limits) / sizeof(double)))
        return release_arrays(views, N_ARRAYS, "places, moments and errors do not belong together");
    enum { OWN = N_MOMENTS + 1, SHARED = 3 + MOST_TERMS + 2 }; /* rows of numbers: of each set of stars, and of both */
    double *room = malloc((size_t)(n * (2 * OWN + SHARED)) * sizeof *room);
    Entry *entries = malloc((size_t)n * sizeof *entries);
    if (room && entries) {
        Py_BEGIN_ALLOW_THREADS
        double *shared = room + 2 * OWN * n, *weight = shared + (3 + MOST_TERMS) * n;
        Field stars = {n, views[UV].buf, views[NOISE].buf, room, room + N_MOMENTS * n, shared, shared + n, shared + 2 * n,
                       shared + 3 * n, weight, weight + n, entries};
        Field single = stars;
        single.moments = room + OWN * n;
        single.doubt = single.moments + N_MOMENTS * n;
        memcpy(stars.moments, views[MOMENTS].buf, (size_t)(N_MOMENTS * n) * sizeof(double));
        memcpy(stars.doubt, views[DOUBT].buf, (size_t)n * sizeof(double));
        find_form(&stars, &single, views[LIMITS].buf, views[FORM].buf, views[TERMS].buf);
        Py_END_ALLOW_THREADS
    }
    const int is_done = room && entries;
    free(room);
    free(entries);
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    return is_done ? done : (Py_XDECREF(done), PyErr_NoMemory());
}
