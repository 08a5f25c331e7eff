/* One strip of boxes in one precision: included by subtraction.c for each, with REAL, MAGNITUDE and NAMED.
 *
 * Each loop does one kind of work on one row, and stands apart: it then becomes vector instructions. */

APART IN_LANES static void NAMED(spline_row)(REAL *restrict sky, const REAL *restrict knot, Py_ssize_t nx, const REAL *weight)
{
    const REAL a = weight[0], b = weight[1], c = weight[2], d = weight[3];
    for (Py_ssize_t x = 0; x < nx; x++)
        sky[x] = a * knot[x] + b * knot[nx + x] + c * knot[2 * nx + x] + d * knot[3 * nx + x];
}

APART IN_LANES static void NAMED(hold)(REAL *restrict sky, double *restrict columns, Py_ssize_t nx, REAL low, REAL high)
{
    for (Py_ssize_t x = 0; x < nx; x++) {
        sky[x] = sky[x] > low ? sky[x] : low;
        sky[x] = sky[x] < high ? sky[x] : high;
        columns[x] += (double)sky[x];
    }
}

APART IN_LANES static void NAMED(subtract_row)(REAL *restrict row, const REAL *restrict sky, REAL *restrict by_column, Py_ssize_t nx)
{
    for (Py_ssize_t x = 0; x < nx; x++) {
        row[x] -= sky[x];
        by_column[x] += row[x];
    }
}

APART IN_LANES static void NAMED(subtract_counts)(REAL *restrict row, const uint16_t *restrict raw, const REAL *restrict sky,
                                   REAL *restrict by_column, Py_ssize_t nx, REAL gain, REAL offset)
{
    for (Py_ssize_t x = 0; x < nx; x++) {
        row[x] = ((REAL)(int32_t)raw[x] * gain - offset) - sky[x];
        by_column[x] += row[x];
    }
}

/* How many of some pixels are near the sky; what is no number is not. */
APART IN_LANES static int NAMED(count_near)(const REAL *restrict row, REAL least)
{
    int n_near = 0;
    for (int i = 0; i < AT_ONCE; i++)
        n_near += MAGNITUDE(row[i]) < least;
    return n_near;
}

static void NAMED(judge_row)(Frame *frame, Py_ssize_t y, const REAL *row, REAL least)
{
    const double *weights = frame->weights + y % frame->box_y * KNOTS;
    const int first = first_knot(weights);
    const double *knots = frame->rms_wide + (y / frame->box_y + first) * frame->nx;
    for (Py_ssize_t x = 0; x < frame->nx; x += AT_ONCE) {
        const Py_ssize_t n = frame->nx - x < AT_ONCE ? frame->nx - x : AT_ONCE;
        if (n == AT_ONCE && NAMED(count_near)(row + x, least) == AT_ONCE)
            continue;
        for (Py_ssize_t i = 0; i < n; i++)
            if (!(MAGNITUDE(row[x + i]) < least))
                judge(frame, y * frame->nx + x + i, knots + x + i, weights + first, (double)row[x + i]);
    }
}

/* Sums over the pixels of each box: sky that was subtracted, and what is left, of pixels that are numbers. */
static void NAMED(add_strip)(const Frame *frame, Py_ssize_t top, Py_ssize_t n_rows, const REAL *image,
                             const REAL *by_column, double *columns)
{
    const Py_ssize_t nx = frame->nx, strip = top / frame->box_y;
    int is_finite = 1;
    add_columns(frame, columns, frame->sky_sums + strip * frame->mesh_x);
    for (Py_ssize_t x = 0; x < nx; x++) {
        columns[x] = (double)by_column[x];
        is_finite &= isfinite(by_column[x]) != 0;
    }
    for (Py_ssize_t x = 0; x < nx && !is_finite; x++) {
        columns[x] = 0.0;
        for (Py_ssize_t y = top; y < top + n_rows; y++)
            columns[x] += isfinite(image[y * nx + x]) ? (double)image[y * nx + x] : 0.0;
    }
    add_columns(frame, columns, frame->sums + strip * frame->mesh_x);
}

/* The strip from row `top` on; `sky`, `by_column` and `columns` are room for one row each. */
static void NAMED(subtract_strip)(Frame *frame, Py_ssize_t top, const REAL *wide, const uint16_t *counts, REAL *image,
                                  REAL *sky, REAL *by_column, double *columns)
{
    const Py_ssize_t nx = frame->nx, n_rows = top + frame->box_y < frame->ny ? frame->box_y : frame->ny - top;
    const REAL low = (REAL)frame->low, high = (REAL)frame->high;
    const REAL *knots = wide + top / frame->box_y * nx;
    double sums[KNOTS] = {0.0};
    int is_beyond = 0;
    for (Py_ssize_t i = 0; i < KNOTS * nx; i++) /* a spline stays between its coefficients */
        is_beyond |= (knots[i] < low) | (knots[i] > high);
    memset(by_column, 0, (size_t)nx * sizeof *by_column);
    memset(columns, 0, (size_t)nx * sizeof *columns);
    for (Py_ssize_t y = 0; y < n_rows; y++) {
        const double *weights = frame->weights + y * KNOTS;
        const int first = first_knot(weights);
        REAL weight[KNOTS], *row = image + (top + y) * nx;
        for (int k = 0; k < KNOTS; k++) {
            weight[k] = (REAL)weights[k];
            sums[k] += (double)weight[k];
        }
        NAMED(spline_row)(sky, knots + first * nx, nx, weight + first);
        if (is_beyond)
            NAMED(hold)(sky, columns, nx, low, high);
        if (counts)
            NAMED(subtract_counts)
            (row, counts + (top + y) * nx, sky, by_column, nx, (REAL)frame->gain, (REAL)frame->offset);
        else
            NAMED(subtract_row)(row, sky, by_column, nx);
        NAMED(judge_row)(frame, top + y, row, (REAL)frame->least);
    }
    for (Py_ssize_t x = 0; x < nx && !is_beyond; x++)
        for (int k = 0; k < KNOTS; k++)
            columns[x] += sums[k] * (double)knots[k * nx + x];
    NAMED(add_strip)(frame, top, n_rows, image, by_column, columns);
}
