/* Smooth course of the boxes of the sky: see sky_level.py for what is computed, and for the form in NumPy. */

#include "arrays.h"
#include "sky_fit.h"
#include "sums.h"

#define SIDE 5  /* boxes across a window, */
#define WIDER 9 /* where there are too few of them in it, */
#define N_BOXES (SIDE * SIDE)
#define MOST_POLYNOMIALS 10

/* Numbers of sky_level.py, in this order. */
typedef struct {
    double outer_weight, enough, misfit, by_noise, by_scatter, nearest, own_near, own, ridge, drawn_near, no_polynomial,
        to_sigma;
} Limits;

/* A mesh (ny, nx) of values and weights, with a frame of zeros as wide as half of the widest window around it. */
typedef struct {
    Py_ssize_t ny, nx, stride;
    double *values, *weights;
} Mesh;

static Py_ssize_t place_of(const Mesh *mesh, Py_ssize_t box)
{
    return (box / mesh->nx + WIDER / 2) * mesh->stride + box % mesh->nx + WIDER / 2;
}

/* Windows of so many boxes across around some boxes; the last is repeated where there are fewer than there are lanes. */
static void take_windows(const Mesh *mesh, const int64_t *boxes, Py_ssize_t n, int side, Windows *windows)
{
    for (int lane = 0; lane < LANES; lane++) {
        const Py_ssize_t middle = place_of(mesh, boxes[lane < n ? lane : n - 1]);
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++) {
                const Py_ssize_t at = middle + (y - side / 2) * mesh->stride + x - side / 2;
                windows->values[y * side + x][lane] = mesh->values[at];
                windows->weights[y * side + x][lane] = mesh->weights[at];
            }
    }
}

/* 1, x, y, x^2, x y, y^2 at the boxes of a window; those that are not next to the middle one count less. */
static Surface surface_of(int side, int n_terms, double outer_weight, double ridge)
{
    Surface surface = {.n_boxes = side * side, .n_terms = n_terms, .ridge = ridge};
    for (int box = 0; box < side * side; box++) {
        const double y = box / side - side / 2, x = box % side - side / 2;
        const double terms[MOST_TERMS] = {1.0, x, y, x * x, x * y, y * y};
        for (int term = 0; term < n_terms; term++)
            surface.basis[term][box] = terms[term];
        surface.kernel[box] = fabs(x) <= 1.0 && fabs(y) <= 1.0 ? 1.0 : outer_weight;
    }
    return surface;
}

/* Mean square of the residuals of a window in units of the noise; 0 where it cannot be told. */
static double misfit_of(const Fitted *fitted, int lane, int n_terms, double noise)
{
    const double square = fitted->square[lane] / (noise * noise), n_free = fitted->count[lane] - n_terms + 1;
    return n_free > 0.0 && !isnan(square) ? square / (n_free > 1.0 ? n_free : 1.0) : 0.0;
}

static double middle_of(const Fitted *fitted, int lane)
{
    return fitted->count[lane] > 0.0 ? fitted->middle[lane] : (double)NAN;
}

/* Value below which a share of the known ones lies; NaN without one. Overwrites them. */
static double quantile(double *values, int n, double share)
{
    int n_known = 0;
    for (int i = 0; i < n; i++) {
        const double value = values[i];
        if (isnan(value))
            continue;
        int at = n_known++;
        for (; at > 0 && values[at - 1] > value; at--)
            values[at] = values[at - 1];
        values[at] = value;
    }
    if (!n_known)
        return (double)NAN;
    const double rank = (n_known - 1) * share;
    return 0.5 * (values[(int)floor(rank)] + values[(int)ceil(rank)]);
}

/* Median step from box to box along an axis (boxes apart by `step`) of a window; 0 where none is known. */
static double slope_of(const double *known, int step)
{
    double steps[N_BOXES];
    int n = 0;
    for (int box = 0; box < N_BOXES; box++)
        if (step == SIDE ? box + SIDE < N_BOXES : box % SIDE + 1 < SIDE)
            steps[n++] = known[box + step] - known[box];
    const double slope = quantile(steps, n, 0.5);
    return isnan(slope) ? 0.0 : slope;
}

/* Which boxes are within their limit, or near enough to the nearest, of where their residuals are counted from. */
static void mark_near(const double *residual, const double *limit, const Limits *limits, uint8_t *agrees)
{
    double sorted[N_BOXES];
    memcpy(sorted, residual, sizeof sorted);
    const double scatter = limits->by_scatter * quantile(sorted, N_BOXES, limits->nearest);
    for (int box = 0; box < N_BOXES; box++)
        agrees[box] = residual[box] <= (limit[box] > scatter ? limit[box] : scatter);
}

/* Which boxes of a window (known, or NaN) agree with its median, or with the middle one where enough others do. */
static void mark_alike(const double *known, const double *limit, const Limits *limits, uint8_t *agrees)
{
    const double slope_x = slope_of(known, 1), slope_y = slope_of(known, SIDE);
    double flat[N_BOXES], alike[N_BOXES], residual[N_BOXES];
    int n_alike = 0, n_near = 0;
    for (int box = 0; box < N_BOXES; box++)
        flat[box] = known[box] - (box % SIDE - SIDE / 2) * slope_x - (box / SIDE - SIDE / 2) * slope_y;
    for (int box = 0; box < N_BOXES; box++) {
        const int is_alike = fabs(flat[box] - flat[N_BOXES / 2]) <= limit[box];
        const int is_near = abs(box % SIDE - SIDE / 2) <= 1 && abs(box / SIDE - SIDE / 2) <= 1;
        alike[box] = is_alike ? flat[box] : (double)NAN;
        n_alike += is_alike;
        n_near += is_alike && is_near;
    }
    if (n_near < limits->own_near || n_alike < limits->own)
        memcpy(alike, flat, sizeof alike);
    const double start = quantile(alike, N_BOXES, 0.5);
    for (int box = 0; box < N_BOXES; box++)
        residual[box] = fabs(flat[box] - start);
    mark_near(residual, limit, limits, agrees);
}

/* Take the boxes out of windows that do not agree with the others. */
static void keep_agreeing(Windows *windows, const Limits *limits, double noise)
{
    const Surface plane = surface_of(SIDE, 3, 1.0, limits->ridge);
    double known[LANES][N_BOXES], limit[LANES][N_BOXES];
    uint8_t agrees[LANES][N_BOXES];
    Windows kept = *windows;
    Fitted fitted;
    for (int lane = 0; lane < LANES; lane++) {
        for (int box = 0; box < N_BOXES; box++) {
            const double weight = windows->weights[box][lane];
            known[lane][box] = weight > 0.0 ? windows->values[box][lane] : (double)NAN;
            limit[lane][box] = limits->by_noise * noise / sqrt(weight > 0.0 ? weight : 1.0);
        }
        mark_alike(known[lane], limit[lane], limits, agrees[lane]);
    }
    for (int round = 0; round < 3; round++) {
        for (int lane = 0; lane < LANES; lane++)
            for (int box = 0; box < N_BOXES; box++)
                kept.weights[box][lane] = agrees[lane][box] ? windows->weights[box][lane] : 0.0;
        if (round == 2)
            break;
        fit_windows(&plane, &kept, &fitted);
        for (int lane = 0; lane < LANES; lane++) {
            double residual[N_BOXES];
            for (int box = 0; box < N_BOXES; box++)
                residual[box] = fabs(known[lane][box] - fitted.model[box][lane]);
            mark_near(residual, limit[lane], limits, agrees[lane]);
        }
    }
    *windows = kept;
}

/* Surfaces through windows: planes, and paraboloids to which further boxes count more. */
typedef struct {
    Surface plane, paraboloid;
} Surfaces;

/* Fit windows that are no planes: by paraboloids, or through the boxes that agree. */
static void fit_closely(const Mesh *mesh, const Surfaces *surfaces, const Limits *limits, double noise, int64_t *odd,
                        Py_ssize_t n_odd, double *course)
{
    Py_ssize_t n_bad = 0;
    Windows windows;
    Fitted flat, curved;
    for (Py_ssize_t first = 0; first < n_odd; first += LANES) {
        const Py_ssize_t n = n_odd - first < LANES ? n_odd - first : LANES;
        take_windows(mesh, odd + first, n, SIDE, &windows);
        fit_windows(&surfaces->paraboloid, &windows, &curved);
        for (int lane = 0; lane < n; lane++) {
            course[odd[first + lane]] = middle_of(&curved, lane);
            if (misfit_of(&curved, lane, surfaces->paraboloid.n_terms, noise) > limits->misfit)
                odd[n_bad++] = odd[first + lane];
        }
    }
    for (Py_ssize_t first = 0; first < n_bad; first += LANES) {
        const Py_ssize_t n = n_bad - first < LANES ? n_bad - first : LANES;
        take_windows(mesh, odd + first, n, SIDE, &windows);
        keep_agreeing(&windows, limits, noise);
        fit_windows(&surfaces->plane, &windows, &flat);
        fit_windows(&surfaces->paraboloid, &windows, &curved);
        for (int lane = 0; lane < n; lane++) {
            const int is_curved = misfit_of(&flat, lane, surfaces->plane.n_terms, noise) > limits->misfit;
            course[odd[first + lane]] = middle_of(is_curved ? &curved : &flat, lane);
        }
    }
}

/* Planes through the wider surroundings of boxes with too few known ones around them; NaN where these are too few. */
static void fit_from_afar(Mesh *mesh, const Limits *limits, double noise, const int64_t *poor, Py_ssize_t n_poor,
                          const uint8_t *is_poor, double *course, double *scratch)
{
    const Py_ssize_t n_boxes = mesh->ny * mesh->nx;
    const Surface plane = surface_of(WIDER, 3, 1.0, limits->ridge);
    for (Py_ssize_t box = 0; box < n_boxes; box++)
        scratch[box] = fabs(mesh->values[place_of(mesh, box)] - course[box]);
    const double typical = 2.0 * limits->by_noise * median_of(scratch, n_boxes);
    const double near = limits->by_noise * noise > typical ? limits->by_noise * noise : typical; /* NaN is kept */
    for (Py_ssize_t box = 0; box < n_boxes; box++) {
        const Py_ssize_t at = place_of(mesh, box);
        if (is_poor[box] || !(fabs(mesh->values[at] - course[box]) <= near))
            mesh->weights[at] = 0.0;
    }
    for (Py_ssize_t first = 0; first < n_poor; first += LANES) {
        const Py_ssize_t n = n_poor - first < LANES ? n_poor - first : LANES;
        Windows windows;
        Fitted fitted;
        take_windows(mesh, poor + first, n, WIDER, &windows);
        fit_windows(&plane, &windows, &fitted);
        for (int lane = 0; lane < n; lane++) {
            double sum = 0.0;
            for (int box = 0; box < WIDER * WIDER; box++)
                sum += windows.weights[box][lane];
            course[poor[first + lane]] = sum >= limits->enough ? middle_of(&fitted, lane) : (double)NAN;
        }
    }
}

/* Course of a mesh from which the broad course is taken off. */
static void fit_mesh(Mesh *mesh, const Limits *limits, double noise, double *course, int64_t *odd, uint8_t *is_poor,
                     double *scratch)
{
    const Py_ssize_t n_boxes = mesh->ny * mesh->nx;
    const Surfaces surfaces = {surface_of(SIDE, 3, limits->outer_weight, limits->ridge),
                               surface_of(SIDE, 6, sqrt(limits->outer_weight), limits->ridge)};
    Py_ssize_t n_odd = 0, n_poor = 0;
    for (Py_ssize_t first = 0; first < n_boxes; first += LANES) {
        const Py_ssize_t n = n_boxes - first < LANES ? n_boxes - first : LANES;
        int64_t boxes[LANES];
        Windows windows;
        Fitted fitted;
        for (int lane = 0; lane < n; lane++)
            boxes[lane] = first + lane;
        take_windows(mesh, boxes, n, SIDE, &windows);
        fit_windows(&surfaces.plane, &windows, &fitted);
        for (int lane = 0; lane < n; lane++) {
            double sum = 0.0;
            for (int box = 0; box < N_BOXES; box++)
                sum += windows.weights[box][lane];
            is_poor[first + lane] = sum < limits->enough;
            course[first + lane] = middle_of(&fitted, lane);
            if (misfit_of(&fitted, lane, surfaces.plane.n_terms, noise) > limits->misfit)
                odd[n_odd++] = first + lane;
        }
    }
    fit_closely(mesh, &surfaces, limits, noise, odd, n_odd, course);
    for (Py_ssize_t box = 0; box < n_boxes; box++)
        if (is_poor[box])
            odd[n_poor++] = box;
    if (n_poor)
        fit_from_afar(mesh, limits, noise, odd, n_poor, is_poor, course, scratch);
}

/* Scatter of the values of boxes beside each other that no smooth sky explains. */
static double field_scatter(const double *values, const double *weights, Py_ssize_t ny, Py_ssize_t nx,
                            const Limits *limits, double *scratch)
{
    double most = 0.0;
    Py_ssize_t n = 0;
    for (Py_ssize_t box = 0; box < ny * nx; box++)
        most = weights[box] > most ? weights[box] : most;
    for (Py_ssize_t y = 1; y < ny; y++)
        for (Py_ssize_t x = 1; x < nx; x++) {
            const Py_ssize_t at = y * nx + x, corners[4] = {at, at - 1, at - nx, at - nx - 1};
            int is_known = 1;
            for (int corner = 0; corner < 4; corner++)
                is_known = is_known && weights[corners[corner]] > 0.5 * most;
            if (is_known)
                scratch[n++] = fabs(values[at] - values[at - 1] - values[at - nx] + values[at - nx - 1]);
        }
    return n ? limits->to_sigma * median_of(scratch, n) / 2.0 : 0.0;
}

/* Boxes that are known, and the terms (n_terms, n_boxes) of a polynomial through them. */
typedef struct {
    Py_ssize_t n_boxes, n_known;
    int n_terms;
    const double *values, *weights, *terms;
    const int64_t *known;
} Boxes;

/* Normal equations of least squares. */
static void polynomial_equations(const Boxes *boxes, double *normal)
{
    const int n_terms = boxes->n_terms;
    memset(normal, 0, (size_t)(n_terms * n_terms) * sizeof *normal);
    for (Py_ssize_t i = 0; i < boxes->n_known; i++) {
        double at[MOST_POLYNOMIALS];
        for (int t = 0; t < n_terms; t++)
            at[t] = boxes->terms[t * boxes->n_boxes + boxes->known[i]];
        for (int t = 0; t < n_terms; t++) {
            const double weighted = at[t] * boxes->weights[boxes->known[i]];
            for (int u = 0; u < n_terms; u++)
                normal[t * n_terms + u] += weighted * at[u];
        }
    }
    for (int t = 0; t < n_terms; t++)
        normal[t * n_terms + t] += 1e-6;
}

/* Fit values that are drawn to within a limit of the course so far, which becomes the new one. */
static void fit_drawn(const Boxes *boxes, const double *normal, double limit, double *course)
{
    const int n_terms = boxes->n_terms;
    double coefficients[MOST_POLYNOMIALS] = {0.0}, matrix[MOST_POLYNOMIALS * MOST_POLYNOMIALS];
    for (Py_ssize_t i = 0; i < boxes->n_known; i++) {
        const int64_t box = boxes->known[i];
        const double residual = boxes->values[box] - course[box];
        const double drawn = course[box] + (residual > limit ? limit : residual < -limit ? -limit : residual);
        for (int t = 0; t < n_terms; t++)
            coefficients[t] += boxes->terms[t * boxes->n_boxes + box] * (boxes->weights[box] * drawn);
    }
    memcpy(matrix, normal, (size_t)(n_terms * n_terms) * sizeof *matrix);
    solve_equations(matrix, coefficients, n_terms);
    memset(course, 0, (size_t)boxes->n_boxes * sizeof *course);
    for (int t = 0; t < n_terms; t++)
        for (Py_ssize_t box = 0; box < boxes->n_boxes; box++)
            course[box] += coefficients[t] * boxes->terms[t * boxes->n_boxes + box];
}

/* Polynomial through all boxes; their median where the sky has steps. */
static void broad_course(const Boxes *boxes, const Limits *limits, double noise, double *course, double *scratch)
{
    double normal[MOST_POLYNOMIALS * MOST_POLYNOMIALS], scatter = 0.0;
    polynomial_equations(boxes, normal);
    for (Py_ssize_t i = 0; i < boxes->n_known; i++)
        scratch[i] = boxes->values[boxes->known[i]];
    const double middle = median_of(scratch, boxes->n_known);
    for (Py_ssize_t box = 0; box < boxes->n_boxes; box++)
        course[box] = middle;
    for (int round = 0; round < 3; round++) {
        for (Py_ssize_t i = 0; i < boxes->n_known; i++)
            scratch[i] = fabs(boxes->values[boxes->known[i]] - course[boxes->known[i]]);
        for (Py_ssize_t i = 0; round == 2 && i < boxes->n_known; i++) /* in units of the noise of a whole box */
            scratch[i] *= sqrt(boxes->weights[boxes->known[i]]);
        scatter = limits->to_sigma * median_of(scratch, boxes->n_known);
        if (round < 2)
            fit_drawn(boxes, normal, limits->drawn_near * scatter, course);
    }
    for (Py_ssize_t box = 0; scatter > limits->no_polynomial * noise && box < boxes->n_boxes; box++)
        course[box] = middle;
}

/* Mesh of what is left of values without their broad course; 0 where they are not known. */
static void fill_mesh(Mesh *mesh, const double *values, const double *weights, const double *broad)
{
    for (Py_ssize_t box = 0; box < mesh->ny * mesh->nx; box++) {
        const Py_ssize_t at = place_of(mesh, box);
        mesh->weights[at] = weights[box];
        mesh->values[at] = weights[box] > 0.0 ? values[box] - broad[box] : 0.0;
    }
}

PyObject *smooth_course(PyObject *module, PyObject *arguments)
{
    enum { VALUES, WEIGHTS, TERMS, LIMITS, BROAD, COURSE, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "values"}, {NULL, 2, FLOAT64, READ, "weights"}, {NULL, 2, FLOAT64, READ, "terms"},
        {NULL, 1, FLOAT64, READ, "limits"}, {NULL, 2, FLOAT64, WRITE, "broad"},  {NULL, 2, FLOAT64, WRITE, "course"},
    };
    Py_buffer views[MOST_ARRAYS];
    double noise;
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, "d:smooth_course", &noise) < 0)
        return NULL;
    const Py_ssize_t ny = views[VALUES].shape[0], nx = views[VALUES].shape[1], n = ny * nx, n_terms = views[TERMS].shape[0];
    const size_t n_padded = (size_t)((ny + WIDER) * (nx + WIDER));
    int is_right = n_terms > 0 && n_terms <= MOST_POLYNOMIALS && views[TERMS].shape[1] == n &&
                   views[LIMITS].shape[0] == (Py_ssize_t)(sizeof(Limits) / sizeof(double));
    for (int i = WEIGHTS; i <= COURSE; i += i == WEIGHTS ? BROAD - WEIGHTS : 1)
        is_right = is_right && views[i].shape[0] == ny && views[i].shape[1] == nx;
    if (!is_right)
        return release_arrays(views, N_ARRAYS, "values, weights, terms and courses do not belong together");
    double *padded = calloc(2 * n_padded + (size_t)n, sizeof *padded);
    int64_t *chosen = malloc((size_t)(n + 1) * (sizeof *chosen + 1));
    if (padded && chosen) {
        Py_BEGIN_ALLOW_THREADS
        const Limits *limits = views[LIMITS].buf;
        const double *values = views[VALUES].buf, *weights = views[WEIGHTS].buf;
        double *scratch = padded + 2 * n_padded;
        Mesh mesh = {ny, nx, nx + WIDER, padded, padded + n_padded};
        Boxes boxes = {n, 0, (int)n_terms, values, weights, views[TERMS].buf, chosen};
        const double scatter = field_scatter(values, weights, ny, nx, limits, scratch);
        const double larger = scatter > noise ? scatter : noise;
        for (Py_ssize_t box = 0; box < n; box++)
            if (weights[box] > 0.0)
                chosen[boxes.n_known++] = box;
        broad_course(&boxes, limits, larger, views[BROAD].buf, scratch);
        fill_mesh(&mesh, values, weights, views[BROAD].buf);
        fit_mesh(&mesh, limits, larger, views[COURSE].buf, chosen, (uint8_t *)(chosen + n + 1), scratch);
        Py_END_ALLOW_THREADS
    }
    const int is_done = padded && chosen;
    free(padded);
    free(chosen);
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    return is_done ? done : (Py_XDECREF(done), PyErr_NoMemory());
}
