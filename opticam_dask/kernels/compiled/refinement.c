/* Refinement of a transform between two lists of sources: see refinement.py for what is computed, and for the form in
 * NumPy. The logarithms of the C library may differ in the last bit; they only tell which pairs count. */

#include "arrays.h"
#include "sums.h"

#define PI 3.14159265358979323846

typedef struct {
    double x, y;
} Point;

/* Frame = a * reference + b, in complex numbers. */
typedef struct {
    Point a, b;
} Similarity;

/* Numbers of refinement.py, in this order. */
typedef struct {
    double area, scale, scale_range, tolerance, least, is_shift, expected[4], floor, enough_to_clip, near_shift, near_turn,
        n_steps, n_reweighted;
} Rules;

typedef struct {
    Py_ssize_t n, m; /* sources of the reference, and of the frame */
    const Point *reference, *frame;
    const double *reference_weights, *frame_weights, *log_factorial;
    const Rules *rules;
    int64_t *i, *j, *old_i, *old_j; /* the pairs, and those before */
    double *weights, *distance, *before, *sorted;
    int64_t *order;
} Match;

static Point placed(const Similarity *at, Point point)
{
    return (Point){at->a.x * point.x - at->a.y * point.y + at->b.x, at->a.x * point.y + at->a.y * point.x + at->b.y};
}

static double length_of(double x, double y)
{
    return sqrt(x * x + y * y);
}

/* Number of the source of a list that is nearest to a point, and how far away it is. */
static Py_ssize_t nearest_to(Point point, const Point *list, Py_ssize_t n, double *away)
{
    Py_ssize_t best = 0;
    *away = INFINITY;
    for (Py_ssize_t k = 0; k < n; k++) {
        const double distance = length_of(point.x - list[k].x, point.y - list[k].y);
        if (distance < *away) {
            *away = distance;
            best = k;
        }
    }
    return best;
}

/* Pairs that are each other's nearest and within a radius. Their number. `spare` has room for the reference. */
static Py_ssize_t find_pairs(Match *match, const Similarity *at, double radius, Point *spare)
{
    Py_ssize_t n_pairs = 0;
    for (Py_ssize_t i = 0; i < match->n; i++)
        spare[i] = placed(at, match->reference[i]);
    for (Py_ssize_t i = 0; i < match->n; i++) {
        double away, back;
        const Py_ssize_t j = nearest_to(spare[i], match->frame, match->m, &away);
        if (!(away < radius) || nearest_to(match->frame[j], spare, match->n, &back) != i)
            continue;
        match->i[n_pairs] = i;
        match->j[n_pairs++] = j;
    }
    return n_pairs;
}

/* Weighted least squares over pairs. */
static Similarity fit(const Match *match, Py_ssize_t n, const double *weights)
{
    double total = 0.0, square = 0.0;
    Point r_mean = {0.0, 0.0}, f_mean = {0.0, 0.0}, product = {0.0, 0.0};
    for (Py_ssize_t k = 0; k < n; k++)
        total += weights[k];
    for (Py_ssize_t k = 0; k < n; k++) {
        const double w = weights[k] / total;
        const Point r = match->reference[match->i[k]], f = match->frame[match->j[k]];
        r_mean.x += w * r.x;
        r_mean.y += w * r.y;
        f_mean.x += w * f.x;
        f_mean.y += w * f.y;
    }
    Similarity found = {{match->rules->expected[0], match->rules->expected[1]}, {0.0, 0.0}};
    if (match->rules->is_shift == 0.0) {
        for (Py_ssize_t k = 0; k < n; k++) {
            const double w = weights[k] / total;
            const Point r = match->reference[match->i[k]], f = match->frame[match->j[k]];
            const double rx = r.x - r_mean.x, ry = r.y - r_mean.y, fx = f.x - f_mean.x, fy = f.y - f_mean.y;
            product.x += w * (rx * fx + ry * fy);
            product.y += w * (rx * fy - ry * fx);
            square += w * (rx * rx + ry * ry);
        }
        found.a = (Point){product.x / square, product.y / square};
    }
    const Point there = placed(&found, r_mean);
    found.b = (Point){f_mean.x - there.x, f_mean.y - there.y};
    return found;
}

static void fill_distances(const Match *match, Py_ssize_t n, const Similarity *at, double *distance)
{
    for (Py_ssize_t k = 0; k < n; k++) {
        const Point there = placed(at, match->reference[match->i[k]]), f = match->frame[match->j[k]];
        distance[k] = length_of(there.x - f.x, there.y - f.y);
    }
}

/* Standard deviation along one axis from the median distance to a fit of four numbers. */
static double scatter_of(const Match *match, Py_ssize_t n, const double *distance)
{
    memcpy(match->sorted, distance, (size_t)n * sizeof *distance);
    qsort(match->sorted, (size_t)n, sizeof *distance, by_value);
    const double scatter = match->sorted[n / 2] / sqrt(2.0 * log(2.0) * (1.0 - 2.0 / (double)n));
    return scatter > match->rules->floor ? scatter : match->rules->floor;
}

/* Fit that follows the majority, by reweighting with a Cauchy profile. */
static Similarity fit_majority(Match *match, Py_ssize_t n)
{
    const Rules *rules = match->rules;
    for (Py_ssize_t k = 0; k < n; k++)
        match->weights[k] = 1.0;
    Similarity found = fit(match, n, match->weights);
    fill_distances(match, n, &found, match->distance);
    for (int step = 0; step < (int)rules->n_reweighted && (double)n >= rules->enough_to_clip; step++) {
        const double scatter = scatter_of(match, n, match->distance);
        double most = 0.0;
        for (Py_ssize_t k = 0; k < n; k++) {
            const double relative = match->distance[k] / scatter;
            match->weights[k] = 1.0 / (1.0 + relative * relative);
        }
        memcpy(match->before, match->distance, (size_t)n * sizeof *match->before);
        found = fit(match, n, match->weights);
        fill_distances(match, n, &found, match->distance);
        for (Py_ssize_t k = 0; k < n; k++) {
            const double change = fabs(match->distance[k] - match->before[k]);
            most = change > most ? change : most;
        }
        if (most < rules->floor / 10.0)
            break;
    }
    return found;
}

/* Log of the expected number of matches of `k` pairs as good between unrelated lists. */
static double log_chance_of(const Match *match, Py_ssize_t k, double squares, double spread, int is_near)
{
    const Rules *rules = match->rules;
    const double *log_factorial = match->log_factorial, n_pairs = (double)k;
    const Py_ssize_t n = match->n, m = match->m, fewer = n < m ? n : m;
    const Py_ssize_t free = rules->is_shift == 0.0 ? k - 2 : k - 1, half = free > 0 ? free : 0;
    const double ways =
        log_factorial[n] - log_factorial[k] - log_factorial[n - k] + log_factorial[m] - log_factorial[m - k];
    const double sizes = log(2.0 * ((double)fewer - rules->least + 1.0));
    const double shifts = rules->area * (is_near ? PI * rules->near_shift * rules->near_shift : 1.0);
    double transforms = log(n_pairs * shifts);
    if (rules->is_shift == 0.0) {
        const double low = rules->scale / rules->scale_range, high = rules->scale * rules->scale_range;
        const double all = high * high - low * low, near = rules->near_turn * rules->scale * (rules->near_turn * rules->scale);
        transforms += log((spread > 1.0 ? spread : 1.0) * PI * (is_near && near < all ? near : all));
    }
    const double ball = (double)half * log(PI * (squares + n_pairs * rules->floor * rules->floor)) - log_factorial[half];
    return sizes + ways + transforms + ball - n_pairs * log(rules->area);
}

/* Leave the pairs, by distance, that make the match least probable by chance, and tell the log of that number. */
static Py_ssize_t leave_most_significant(Match *match, Py_ssize_t n, const Similarity *at, double *log_chance)
{
    const Rules *rules = match->rules;
    const double a_x = at->a.x - rules->expected[0], a_y = at->a.y - rules->expected[1];
    Point mean = {0.0, 0.0}, sum = {0.0, 0.0};
    double squares = 0.0, spread = 0.0;
    Py_ssize_t n_kept = 0;
    fill_distances(match, n, at, match->distance);
    for (Py_ssize_t k = 0; k < n; k++) { /* in the order of distances; equal ones stay as they are */
        Py_ssize_t place = k;
        for (; place > 0 && match->distance[match->order[place - 1]] > match->distance[k]; place--)
            match->order[place] = match->order[place - 1];
        match->order[place] = k;
        mean.x += match->reference[match->i[k]].x / (double)n;
        mean.y += match->reference[match->i[k]].y / (double)n;
    }
    const double off_x = a_x * mean.x - a_y * mean.y + at->b.x - rules->expected[2];
    const double off_y = a_x * mean.y + a_y * mean.x + at->b.y - rules->expected[3];
    const int is_near = length_of(off_x, off_y) < rules->near_shift * sqrt(rules->area) &&
                        length_of(a_x, a_y) < rules->near_turn * rules->scale;
    for (Py_ssize_t k = 0; k < n; k++) {
        const int64_t pair = match->order[k];
        const double rx = match->reference[match->i[pair]].x - mean.x, ry = match->reference[match->i[pair]].y - mean.y;
        squares += match->distance[pair] * match->distance[pair];
        spread += rx * rx + ry * ry;
        sum.x += rx;
        sum.y += ry;
        if ((double)(k + 1) < rules->least)
            continue;
        const double around = spread - (sum.x * sum.x + sum.y * sum.y) / (double)(k + 1);
        const double chance = log_chance_of(match, k + 1, squares, around, is_near);
        if (!n_kept || chance < *log_chance) {
            *log_chance = chance;
            n_kept = k + 1;
        }
    }
    for (Py_ssize_t k = 0; k < n; k++)
        match->before[k] = 0.0;
    for (Py_ssize_t k = 0; k < n_kept; k++)
        match->before[match->order[k]] = 1.0;
    n_kept = 0;
    for (Py_ssize_t k = 0; k < n; k++)
        if (match->before[k] > 0.0) {
            match->i[n_kept] = match->i[k];
            match->j[n_kept++] = match->j[k];
        }
    return n_kept;
}

/* The last fit, by the weights of the sources and without pairs far off. Their number. */
static Py_ssize_t finish(Match *match, Py_ssize_t n, Similarity *at)
{
    fill_distances(match, n, at, match->distance);
    if ((double)n >= match->rules->enough_to_clip) {
        const double limit = 4.0 * scatter_of(match, n, match->distance);
        Py_ssize_t n_kept = 0;
        for (Py_ssize_t k = 0; k < n; k++)
            if (match->distance[k] < limit) {
                match->i[n_kept] = match->i[k];
                match->j[n_kept++] = match->j[k];
            }
        n = n_kept;
    }
    for (Py_ssize_t k = 0; k < n; k++)
        match->weights[k] =
            1.0 / (1.0 / match->reference_weights[match->i[k]] + 1.0 / match->frame_weights[match->j[k]]);
    *at = fit(match, n, match->weights);
    return n;
}

/* Number of pairs of the refined transform; 0 where there is none. */
static Py_ssize_t refine(Match *match, Similarity *at, double *log_chance, Point *spare)
{
    const Rules *rules = match->rules;
    Py_ssize_t n = 0, n_before = -1;
    for (int step = 0; step < (int)rules->n_steps; step++) {
        n = find_pairs(match, at, step == 0 ? 2.0 * rules->tolerance : rules->tolerance, spare);
        if ((double)n < rules->least)
            return 0;
        *at = fit_majority(match, n);
        n = leave_most_significant(match, n, at, log_chance);
        const size_t size = (size_t)n * sizeof *match->i;
        if (n == n_before && !memcmp(match->i, match->old_i, size) && !memcmp(match->j, match->old_j, size))
            break;
        memcpy(match->old_i, match->i, size);
        memcpy(match->old_j, match->j, size);
        n_before = n;
        for (Py_ssize_t k = 0; k < n; k++)
            match->weights[k] = 1.0;
        *at = fit(match, n, match->weights);
    }
    return finish(match, n, at);
}

PyObject *refine_match(PyObject *module, PyObject *arguments)
{
    enum { REFERENCE, FRAME, R_WEIGHTS, F_WEIGHTS, LOG_FACTORIAL, RULES, START, I, J, N_ARRAYS };
    Wanted wanted[N_ARRAYS] = {
        {NULL, 2, FLOAT64, READ, "reference"},     {NULL, 2, FLOAT64, READ, "frame"},
        {NULL, 1, FLOAT64, READ, "its weights"},   {NULL, 1, FLOAT64, READ, "their weights"},
        {NULL, 1, FLOAT64, READ, "log_factorial"}, {NULL, 1, FLOAT64, READ, "rules"},
        {NULL, 1, FLOAT64, WRITE, "start"},        {NULL, 1, INT64, WRITE, "i"},
        {NULL, 1, INT64, WRITE, "j"},
    };
    Py_buffer views[MOST_ARRAYS];
    (void)module;
    if (open_given(arguments, wanted, views, N_ARRAYS, ":refine_match") < 0)
        return NULL;
    const Py_ssize_t n = views[REFERENCE].shape[0], m = views[FRAME].shape[0], most = n > m ? n : m;
    const int is_right = n > 0 && m > 0 && views[REFERENCE].shape[1] == 2 && views[FRAME].shape[1] == 2 &&
                         views[R_WEIGHTS].shape[0] == n && views[F_WEIGHTS].shape[0] == m &&
                         views[LOG_FACTORIAL].shape[0] > most && views[RULES].shape[0] == sizeof(Rules) / sizeof(double) &&
                         views[START].shape[0] == 5 && views[I].shape[0] == n && views[J].shape[0] == n;
    if (!is_right) {
        return release_arrays(views, N_ARRAYS, "lists, weights, rules and pairs do not belong together");
    }
    Py_ssize_t n_pairs = 0;
    double *numbers = malloc((size_t)n * 9 * sizeof *numbers); /* four of numbers, three of places, one of points */
    if (numbers) {
        Py_BEGIN_ALLOW_THREADS
        int64_t *places = (int64_t *)(numbers + 4 * n);
        double *start = views[START].buf;
        Match match = {n, m, views[REFERENCE].buf, views[FRAME].buf, views[R_WEIGHTS].buf, views[F_WEIGHTS].buf,
                       views[LOG_FACTORIAL].buf, views[RULES].buf, views[I].buf, views[J].buf, places, places + n,
                       numbers, numbers + n, numbers + 2 * n, numbers + 3 * n, places + 2 * n};
        Similarity at = {{start[0], start[1]}, {start[2], start[3]}};
        n_pairs = refine(&match, &at, &start[4], (Point *)(numbers + 7 * n));
        start[0] = at.a.x;
        start[1] = at.a.y;
        start[2] = at.b.x;
        start[3] = at.b.y;
        Py_END_ALLOW_THREADS
        free(numbers);
    }
    PyObject *done = release_arrays(views, N_ARRAYS, NULL);
    Py_XDECREF(done);
    return numbers ? PyLong_FromSsize_t(n_pairs) : PyErr_NoMemory();
}
