/* One strip of boxes in one precision: included by subtraction.c for each, with REAL, MAGNITUDE and NAMED.
 *
 * Each loop does one kind of work on one row, and stands apart: it then becomes vector instructions. */

APART IN_LANES static void NAMED(spline_row)(REAL *restrict sky, const REAL *restrict knot, Py_ssize_t apart,
                                   const REAL *weight, Py_ssize_t nx)
{
    const REAL a = weight[0], b = weight[1], c = weight[2], d = weight[3];
    for (Py_ssize_t x = 0; x < nx; x++)
        sky[x] = a * knot[x] + b * knot[apart + x] + c * knot[2 * apart + x] + d * knot[3 * apart + x];
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

/* Counts become what is left of them in place of their sky. */
APART IN_LANES static void NAMED(subtract_counts)(REAL *restrict left, const uint16_t *restrict raw, REAL *restrict by_column,
                                   Py_ssize_t nx, REAL gain, REAL offset)
{
    for (Py_ssize_t x = 0; x < nx; x++) {
        left[x] = ((REAL)(int32_t)raw[x] * gain - offset) - left[x];
        by_column[x] += left[x];
    }
}

/* Spline and subtraction in one. */
APART IN_LANES static void NAMED(subtract_spline)(REAL *restrict left, const uint16_t *restrict raw,
                                   const REAL *restrict knot, Py_ssize_t apart, const REAL *weight,
                                   REAL *restrict by_column, Py_ssize_t nx, REAL gain, REAL offset)
{
    const REAL a = weight[0], b = weight[1], c = weight[2], d = weight[3];
    for (Py_ssize_t x = 0; x < nx; x++) {
        const REAL sky = a * knot[x] + b * knot[apart + x] + c * knot[2 * apart + x] + d * knot[3 * apart + x];
        left[x] = ((REAL)(int32_t)raw[x] * gain - offset) - sky;
        by_column[x] += left[x];
    }
}

/* Rows of the widened mesh that reach a strip, in the precision of the image. */
APART IN_LANES static void NAMED(take_knots)(REAL *restrict knots, const double *restrict wide, Py_ssize_t nx)
{
    for (Py_ssize_t x = 0; x < nx; x++)
        knots[x] = (REAL)wide[x];
}

/* How many pixels of each group of a row are near the sky; what is no number is not. */
APART IN_LANES static void NAMED(count_near)(const REAL *restrict row, Py_ssize_t n_groups, REAL least,
                                             unsigned char *restrict n_near)
{
    for (Py_ssize_t group = 0; group < n_groups; group++) {
        int near = 0;
        for (int i = 0; i < AT_ONCE; i++)
            near += MAGNITUDE(row[group * AT_ONCE + i]) < least;
        n_near[group] = (unsigned char)near;
    }
}

static void NAMED(judge_row)(Frame *frame, Py_ssize_t y, const REAL *row, REAL least)
{
    const double *weights = frame->weights + y % frame->box_y * KNOTS;
    const int first = first_knot(weights);
    const int64_t *rows = frame->rows + y / frame->box_y + first;
    const Py_ssize_t n_groups = frame->nx / AT_ONCE;
    NAMED(count_near)(row, n_groups, least, frame->n_near);
    for (Py_ssize_t group = 0; group * AT_ONCE < frame->nx; group++) {
        if (group < n_groups && frame->n_near[group] == AT_ONCE)
            continue;
        const Py_ssize_t x = group * AT_ONCE, n = group < n_groups ? AT_ONCE : frame->nx - x;
        for (Py_ssize_t i = 0; i < n; i++)
            if (!(MAGNITUDE(row[x + i]) < least))
                judge(frame, y * frame->nx, x + i, rows, weights + first, (double)row[x + i]);
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

/* The strip from row `top` on, in the room of the frame. */
static void NAMED(subtract_strip)(Frame *frame, Py_ssize_t top, const uint16_t *counts, REAL *image)
{
    const Py_ssize_t nx = frame->nx, n_rows = top + frame->box_y < frame->ny ? frame->box_y : frame->ny - top;
    const Py_ssize_t apart = frame->apart;
    const REAL low = (REAL)frame->low, high = (REAL)frame->high, gain = (REAL)frame->gain, offset = (REAL)frame->offset;
    REAL *knots = frame->knots, *sky = frame->sky, *by_column = frame->by_column;
    double *columns = frame->columns, sums[KNOTS] = {0.0};
    int is_beyond = 0;
    for (int k = 0; k < KNOTS; k++)
        NAMED(take_knots)(knots + k * apart, frame->wide + frame->rows[top / frame->box_y + k] * nx, nx);
    for (int k = 0; k < KNOTS; k++)
        for (Py_ssize_t x = 0; x < nx; x++) /* a spline stays between its coefficients */
            is_beyond |= (knots[k * apart + x] < low) | (knots[k * apart + x] > high);
    memset(by_column, 0, (size_t)nx * sizeof *by_column);
    memset(columns, 0, (size_t)nx * sizeof *columns);
    for (Py_ssize_t y = 0; y < n_rows; y++) {
        const double *weights = frame->weights + y * KNOTS;
        const uint16_t *raw = counts ? counts + (top + y) * nx : NULL;
        const int first = first_knot(weights);
        REAL weight[KNOTS], *row = image + (top + y) * nx;
        for (int k = 0; k < KNOTS; k++) {
            weight[k] = (REAL)weights[k];
            sums[k] += (double)weight[k];
        }
        if (raw && !is_beyond) {
            NAMED(subtract_spline)
            (sky, raw, knots + first * apart, apart, weight + first, by_column, nx, gain, offset);
        } else {
            NAMED(spline_row)(sky, knots + first * apart, apart, weight + first, nx);
            if (is_beyond)
                NAMED(hold)(sky, columns, nx, low, high);
            if (raw)
                NAMED(subtract_counts)(sky, raw, by_column, nx, gain, offset);
            else
                NAMED(subtract_row)(row, sky, by_column, nx);
        }
        NAMED(judge_row)(frame, top + y, raw ? sky : row, (REAL)frame->least);
        if (raw) /* a row that is written as a whole is written in half the time */
            memcpy(row, sky, (size_t)nx * sizeof *row);
    }
    for (Py_ssize_t x = 0; x < nx && !is_beyond; x++)
        for (int k = 0; k < KNOTS; k++)
            columns[x] += sums[k] * (double)knots[k * apart + x];
    NAMED(add_strip)(frame, top, n_rows, image, by_column, columns);
}
