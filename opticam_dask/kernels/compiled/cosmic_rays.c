/* L.A.Cosmic (van Dokkum 2001, PASP 113, 1420) where there may be cosmic rays, and nowhere else.
 *
 * The steps, and the order of every sum, are those of astroscrappy 1.3 with separable median filters, so that mask and
 * cleaned pixels are the same bits. What differs is where they are made: a frame is parted into tiles, and a tile is
 * worked on when a pixel of it could be above the limit at all, which a bound on its noise tells, and in later rounds
 * only when a pixel that it depends on was cleaned. */

#include "arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 32
#define REACH 8 /* how far the pixels of a tile depend on others */
#define GROWN 2 /* how far marked pixels spread */
#define SIDE (TILE + 2 * REACH)
#define LEAST_VARIANCE 0.00001f
#define LEAST_STRUCTURE 0.01f

typedef struct {
    Py_ssize_t place;
    float original; /* the pixel before it was cleaned, and so its variance */
} Hit;

typedef struct {
    Py_ssize_t ny, nx;
    float *pixels;      /* cleaned in place */
    uint8_t *mask;      /* pixels that are never taken for cosmic rays, nor used to clean others */
    uint8_t *found;     /* cosmic rays */
    float *variance;    /* of the pixels that were cleaned; of no meaning elsewhere */
    uint8_t *is_cleaned;
    uint8_t *is_dirty;  /* by tile */
    Hit *hits;
    Py_ssize_t n_hits, n_room;
    float read_variance, limit, low_limit, object_limit;
    int has_level;
    float level; /* median of the frame, for pixels without a good one around them */
    int is_out_of_memory;
} Frame;

/* Room for one tile and what it depends on. */
typedef struct {
    float light[SIDE * SIDE], variance[SIDE * SIDE], noise[SIDE * SIDE], laplacian[SIDE * SIDE], excess[SIDE * SIDE];
    float structure[SIDE * SIDE], rows[SIDE * SIDE], scratch[SIDE * SIDE];
    uint8_t marked[SIDE * SIDE], grown[SIDE * SIDE], good[SIDE * SIDE];
} Window;

/* Networks that leave the median in its place (N. Devillard 1998, Fast median search: an ANSI C implementation). */
#define ORDER(a, b)                  \
    do {                             \
        float least = a < b ? a : b; \
        b = a < b ? b : a;           \
        a = least;                   \
    } while (0)

#define AT(k) from[x + (k) * step]

static inline void medians_of_5(const float *from, float *to, int first, int last, int step)
{
    for (int x = first; x < last; x++) {
        float a = AT(-2), b = AT(-1), c = AT(0), d = AT(1), e = AT(2);
        ORDER(a, b); ORDER(d, e); ORDER(a, d); ORDER(b, e); ORDER(b, c); ORDER(c, d); ORDER(b, c);
        to[x] = c;
    }
}

static inline void medians_of_7(const float *from, float *to, int first, int last, int step)
{
    for (int x = first; x < last; x++) {
        float a = AT(-3), b = AT(-2), c = AT(-1), d = AT(0), e = AT(1), f = AT(2), g = AT(3);
        ORDER(a, f); ORDER(a, d); ORDER(b, g); ORDER(c, e); ORDER(a, b); ORDER(d, f); ORDER(c, g);
        ORDER(c, d); ORDER(d, g); ORDER(e, f); ORDER(b, e); ORDER(b, d); ORDER(d, e);
        to[x] = d;
    }
}

static inline void medians_of_9(const float *from, float *to, int first, int last, int step)
{
    for (int x = first; x < last; x++) {
        float a = AT(-4), b = AT(-3), c = AT(-2), d = AT(-1), e = AT(0), f = AT(1), g = AT(2), h = AT(3), i = AT(4);
        ORDER(b, c); ORDER(e, f); ORDER(h, i); ORDER(a, b); ORDER(d, e); ORDER(g, h); ORDER(b, c);
        ORDER(e, f); ORDER(h, i); ORDER(a, d); ORDER(f, i); ORDER(e, h); ORDER(d, g); ORDER(b, e);
        ORDER(c, f); ORDER(e, h); ORDER(e, c); ORDER(g, e); ORDER(e, c);
        to[x] = e;
    }
}

/* Median along the rows, then along the columns. Pixels at the borders stay as they are: at those of the frame this is
   what astroscrappy does, and at other borders of a window nobody looks at them. */
static void median_filter(const float *from, float *rows, float *to, int height, int width, int length)
{
    const int half = length / 2;
    memcpy(rows, from, (size_t)(height * width) * sizeof *rows);
    memcpy(to, from, (size_t)(height * width) * sizeof *to);
    for (int y = 0; y < height; y++) {
        const float *row = from + y * width;
        if (length == 5)
            medians_of_5(row, rows + y * width, half, width - half, 1);
        else if (length == 7)
            medians_of_7(row, rows + y * width, half, width - half, 1);
        else
            medians_of_9(row, rows + y * width, half, width - half, 1);
    }
    for (int y = half; y < height - half; y++) {
        const float *row = rows + y * width;
        if (length == 5)
            medians_of_5(row, to + y * width, half, width - half, width);
        else if (length == 7)
            medians_of_7(row, to + y * width, half, width - half, width);
        else
            medians_of_9(row, to + y * width, half, width - half, width);
    }
}

/* Positive part of the Laplacian of a pixel's quarter; the order of the subtractions is astroscrappy's. */
static inline float quarter(float value, float right, float left, float next, float previous)
{
    float p = 4.0f * value;
    p -= right;
    p -= left;
    p -= next;
    p -= previous;
    return p > 0.0f ? p : 0.0f;
}

/* Laplacian of the frame with pixels parted in four, at one pixel that may be at the border, where nothing is beyond.
   The uppermost row is summed in double precision there. */
static float laplacian_at(const float *light, Py_ssize_t y, Py_ssize_t x, Py_ssize_t ny, Py_ssize_t nx, Py_ssize_t stride)
{
    const float c = light[y * stride + x];
    const float left = x > 0 ? light[y * stride + x - 1] : 0.0f, right = x < nx - 1 ? light[y * stride + x + 1] : 0.0f;
    const float above = y > 0 ? light[(y - 1) * stride + x] : 0.0f, below = y < ny - 1 ? light[(y + 1) * stride + x] : 0.0f;
    float first = quarter(c, c, left, c, above), second = quarter(c, right, c, c, above);
    if (y == 0) {
        first = (float)(4.0 * c - c - left - c);
        second = (float)(4.0 * c - right - c - c);
        first = first > 0.0f ? first : 0.0f;
        second = second > 0.0f ? second : 0.0f;
    }
    float sum = first;
    sum += quarter(c, c, left, below, c);
    sum += quarter(c, right, c, below, c);
    sum += second;
    return sum / 4.0f;
}

/* The same along a row of pixels that are not at the border. */
static void laplacian_row(const float *row, float *to, Py_ssize_t first, Py_ssize_t last, Py_ssize_t stride)
{
    for (Py_ssize_t x = first; x < last; x++) {
        const float c = row[x], left = row[x - 1], right = row[x + 1], above = row[x - stride], below = row[x + stride];
        float sum = quarter(c, c, left, c, above);
        sum += quarter(c, c, left, below, c);
        sum += quarter(c, right, c, below, c);
        sum += quarter(c, right, c, c, above);
        to[x] = sum / 4.0f;
    }
}

/* Whether a pixel from which a tile's marks may come can be above the limit, whatever the medians around it are. */
static int may_have_hits(const Frame *frame, Py_ssize_t top, Py_ssize_t bottom, Py_ssize_t left, Py_ssize_t right)
{
    const Py_ssize_t ny = frame->ny, nx = frame->nx, margin = GROWN + 3;
    Py_ssize_t y0 = top - margin > 0 ? top - margin : 0, y1 = bottom + margin < ny ? bottom + margin : ny;
    Py_ssize_t x0 = left - margin > 0 ? left - margin : 0, x1 = right + margin < nx ? right + margin : nx;
    float least[8];
    for (int lane = 0; lane < 8; lane++)
        least[lane] = frame->pixels[y0 * nx + x0];
    for (Py_ssize_t y = y0; y < y1; y++) {
        const float *row = frame->pixels + y * nx;
        Py_ssize_t x = x0;
        for (; x + 8 <= x1; x += 8)
            for (int lane = 0; lane < 8; lane++)
                least[lane] = row[x + lane] < least[lane] ? row[x + lane] : least[lane];
        for (; x < x1; x++)
            least[0] = row[x] < least[0] ? row[x] : least[0];
    }
    for (int lane = 1; lane < 8; lane++)
        least[0] = least[lane] < least[0] ? least[lane] : least[0];
    float variance = least[0] + frame->read_variance;
    variance = variance > LEAST_VARIANCE ? variance : LEAST_VARIANCE;
    const float bound = 0.999f * frame->limit * 2.0f * sqrtf(variance);
    y0 = top - GROWN > 1 ? top - GROWN : 1;
    y1 = bottom + GROWN < ny - 1 ? bottom + GROWN : ny - 1;
    x0 = left - GROWN > 1 ? left - GROWN : 1;
    x1 = right + GROWN < nx - 1 ? right + GROWN : nx - 1;
    if (y0 != top - GROWN || y1 != bottom + GROWN || x0 != left - GROWN || x1 != right + GROWN)
        return 1; /* at the border of the frame */
    for (Py_ssize_t y = y0; y < y1; y++) {
        float row[SIDE] = {0.0f}, most = 0.0f;
        laplacian_row(frame->pixels + y * nx + x0 - 1, row, 1, x1 - x0 + 1, nx);
        for (Py_ssize_t x = 1; x < x1 - x0 + 1; x++)
            most = row[x] > most ? row[x] : most;
        if (most > bound)
            return 1;
    }
    return 0;
}

/* Spread marks to the eight neighbours; those at the border of the frame take none up. */
static void spread(const uint8_t *from, uint8_t *to, int height, int width)
{
    memcpy(to, from, (size_t)(height * width));
    for (int y = 1; y < height - 1; y++) {
        for (int x = 1; x < width - 1; x++) {
            const uint8_t *at = from + y * width + x;
            to[y * width + x] = at[0] | at[-1] | at[1] | at[-width] | at[-width - 1] | at[-width + 1] | at[width] |
                                at[width - 1] | at[width + 1];
        }
    }
}

static void keep_hit(Frame *frame, Py_ssize_t place)
{
    if (frame->found[place])
        return;
    if (frame->n_hits == frame->n_room) {
        Py_ssize_t n_room = frame->n_room ? 2 * frame->n_room : 1024;
        Hit *hits = realloc(frame->hits, (size_t)n_room * sizeof *hits);
        if (!hits) {
            frame->is_out_of_memory = 1;
            return;
        }
        frame->hits = hits;
        frame->n_room = n_room;
    }
    frame->found[place] = 1;
    frame->hits[frame->n_hits].place = place;
    frame->hits[frame->n_hits++].original = frame->pixels[place];
}

/* Cosmic rays of one tile. */
static void search_tile(Frame *frame, Window *window, Py_ssize_t top, Py_ssize_t bottom, Py_ssize_t left, Py_ssize_t right)
{
    const Py_ssize_t ny = frame->ny, nx = frame->nx;
    const Py_ssize_t y0 = top - REACH > 0 ? top - REACH : 0, y1 = bottom + REACH < ny ? bottom + REACH : ny;
    const Py_ssize_t x0 = left - REACH > 0 ? left - REACH : 0, x1 = right + REACH < nx ? right + REACH : nx;
    const int height = (int)(y1 - y0), width = (int)(x1 - x0), n = height * width;
    for (int y = 0; y < height; y++) {
        const Py_ssize_t start = (y0 + y) * nx + x0;
        memcpy(window->light + y * width, frame->pixels + start, (size_t)width * sizeof *window->light);
        for (int x = 0; x < width; x++) {
            const float value = frame->pixels[start + x] + frame->read_variance;
            window->variance[y * width + x] = frame->is_cleaned[start + x] ? frame->variance[start + x] : value;
            window->good[y * width + x] = !frame->mask[start + x];
        }
    }
    median_filter(window->variance, window->rows, window->noise, height, width, 7);
    for (int i = 0; i < n; i++)
        window->noise[i] = sqrtf(window->noise[i] < LEAST_VARIANCE ? LEAST_VARIANCE : window->noise[i]);
    for (int y = 0; y < height; y++) {
        float *to = window->laplacian + y * width;
        const int is_inside = y > 0 && y < height - 1;
        for (int x = 0; x < width; x += is_inside && width > 1 ? width - 1 : 1)
            to[x] = laplacian_at(window->light, y, x, height, width, width);
        if (is_inside)
            laplacian_row(window->light + y * width, to, 1, width - 1, width);
    }
    for (int i = 0; i < n; i++)
        window->laplacian[i] /= 2.0f * window->noise[i];
    median_filter(window->laplacian, window->rows, window->excess, height, width, 7);
    median_filter(window->light, window->rows, window->structure, height, width, 5);
    median_filter(window->structure, window->rows, window->scratch, height, width, 9);
    for (int i = 0; i < n; i++) {
        window->excess[i] = window->laplacian[i] - window->excess[i];
        float structure = (window->structure[i] - window->scratch[i]) / window->noise[i];
        structure = structure < LEAST_STRUCTURE ? LEAST_STRUCTURE : structure;
        window->marked[i] =
            window->excess[i] > frame->limit && window->good[i] && window->excess[i] / structure > frame->object_limit;
    }
    spread(window->marked, window->grown, height, width);
    for (int i = 0; i < n; i++)
        window->marked[i] = window->grown[i] && window->good[i] && window->excess[i] > frame->limit;
    spread(window->marked, window->grown, height, width);
    for (Py_ssize_t y = top; y < bottom; y++) {
        for (Py_ssize_t x = left; x < right; x++) {
            const Py_ssize_t i = (y - y0) * width + x - x0;
            if (window->grown[i] && window->good[i] && window->excess[i] > frame->low_limit)
                keep_hit(frame, y * nx + x);
        }
    }
}

/* Value of a rank among n values, which are put into another order. */
static float select_rank(float *values, Py_ssize_t n, Py_ssize_t rank)
{
    Py_ssize_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = values[low + (high - low) / 2];
        Py_ssize_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                const float value = values[i];
                values[i++] = values[j];
                values[j--] = value;
            }
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return values[rank];
}

/* Median of the frame as it was, without masked pixels. */
static void measure_level(Frame *frame)
{
    const Py_ssize_t n = frame->ny * frame->nx;
    float *good = malloc((size_t)n * sizeof *good);
    frame->has_level = 1;
    frame->level = 0.0f;
    if (!good) {
        frame->is_out_of_memory = 1;
        return;
    }
    Py_ssize_t n_good = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if (!frame->mask[i] && !frame->found[i])
            good[n_good++] = frame->pixels[i];
    for (Py_ssize_t i = 0; i < frame->n_hits; i++)
        good[n_good++] = frame->hits[i].original; /* no masked pixel is among the hits */
    if (n_good)
        frame->level = select_rank(good, n_good, (n_good - 1) / 2);
    free(good);
}

/* Replace a cosmic ray by the mean of the good pixels around it; returns whether the pixel changed. */
static int clean_pixel(Frame *frame, Py_ssize_t place)
{
    const Py_ssize_t nx = frame->nx, y = place / nx, x = place % nx;
    if (y < 2 || x < 2 || y >= frame->ny - 2 || x >= nx - 2)
        return 0; /* astroscrappy leaves the border alone */
    float sum = 0.0f, variance = 0.0f;
    int n_good = 0;
    for (Py_ssize_t row = y - 2; row <= y + 2; row++) {
        for (Py_ssize_t i = row * nx + x - 2; i <= row * nx + x + 2; i++) {
            if (!frame->found[i] && !frame->mask[i]) {
                sum += frame->pixels[i];
                variance += frame->pixels[i] + frame->read_variance;
                n_good++;
            }
        }
    }
    if (n_good) {
        sum /= (float)n_good;
        variance /= (float)n_good;
    } else {
        if (!frame->has_level)
            measure_level(frame);
        sum = frame->level;
        variance = frame->level + frame->read_variance;
    }
    const int has_changed = !frame->is_cleaned[place] || frame->pixels[place] != sum || frame->variance[place] != variance;
    frame->pixels[place] = sum;
    frame->variance[place] = variance;
    frame->is_cleaned[place] = 1;
    return has_changed;
}

static void search(Frame *frame, Window *window, int n_rounds)
{
    const Py_ssize_t n_down = (frame->ny + TILE - 1) / TILE, n_across = (frame->nx + TILE - 1) / TILE;
    memset(frame->is_dirty, 1, (size_t)(n_down * n_across));
    for (int round = 0; round < n_rounds && !frame->is_out_of_memory; round++) {
        const Py_ssize_t n_before = frame->n_hits;
        for (Py_ssize_t down = 0; down < n_down; down++) {
            for (Py_ssize_t across = 0; across < n_across; across++) {
                if (!frame->is_dirty[down * n_across + across])
                    continue;
                const Py_ssize_t top = down * TILE, left = across * TILE;
                const Py_ssize_t bottom = top + TILE < frame->ny ? top + TILE : frame->ny;
                const Py_ssize_t right = left + TILE < frame->nx ? left + TILE : frame->nx;
                if (may_have_hits(frame, top, bottom, left, right))
                    search_tile(frame, window, top, bottom, left, right);
            }
        }
        if (frame->n_hits == n_before)
            break; /* what was marked is clean already: another round would find the same */
        memset(frame->is_dirty, 0, (size_t)(n_down * n_across));
        for (Py_ssize_t i = 0; i < frame->n_hits; i++) {
            const Py_ssize_t place = frame->hits[i].place, y = place / frame->nx, x = place % frame->nx;
            if (!clean_pixel(frame, place))
                continue;
            for (Py_ssize_t down = (y - REACH > 0 ? y - REACH : 0) / TILE; down <= (y + REACH) / TILE && down < n_down; down++)
                for (Py_ssize_t across = (x - REACH > 0 ? x - REACH : 0) / TILE;
                     across <= (x + REACH) / TILE && across < n_across; across++)
                    frame->is_dirty[down * n_across + across] = 1;
        }
    }
}

/* Median along the rows and columns around one pixel, as median_filter has it. */
static float median_around(const Frame *frame, Py_ssize_t y, Py_ssize_t x)
{
    if (y < 3 || x < 3 || y >= frame->ny - 3 || x >= frame->nx - 3)
        return frame->pixels[y * frame->nx + x];
    float rows[7], median[7];
    for (int k = 0; k < 7; k++) {
        medians_of_7(frame->pixels + (y + k - 3) * frame->nx + x, median, 0, 1, 1);
        rows[k] = median[0];
    }
    medians_of_7(rows + 3, median, 0, 1, 1);
    return median[0];
}

/* Mark what lies around the marked pixels: the square of 3 x 3, or that of 5 x 5 without its corners. Pixels nearer to
   the border than that take nothing up. */
static void grow(const uint8_t *from, uint8_t *to, Py_ssize_t ny, Py_ssize_t nx, int half)
{
    for (Py_ssize_t y = 0; y < ny; y++) {
        for (Py_ssize_t x = 0; x < nx; x++) {
            if (!from[y * nx + x])
                continue;
            to[y * nx + x] = 1;
            for (Py_ssize_t dy = -half; dy <= half; dy++)
                for (Py_ssize_t dx = -half; dx <= half; dx++)
                    if (y + dy >= half && y + dy < ny - half && x + dx >= half && x + dx < nx - half &&
                        !(half == 2 && labs((long)dy) == 2 && labs((long)dx) == 2))
                        to[(y + dy) * nx + x + dx] = 1;
        }
    }
}

/* Saturated stars are no cosmic rays, nor is what lies next to masked pixels. Returns 0 where memory lacks. */
static int mask_saturated(Frame *frame, float saturation)
{
    const size_t n = (size_t)(frame->ny * frame->nx);
    int is_masked = memchr(frame->mask, 1, n) != NULL, is_saturated = 0;
    float most = frame->pixels[0];
    for (size_t i = 0; i < n; i++)
        most = frame->pixels[i] > most ? frame->pixels[i] : most;
    if (!is_masked && !(most >= saturation))
        return 1;
    uint8_t *star = calloc(n, 1), *grown = calloc(n, 1), *more = calloc(n, 1);
    if (star && grown && more) {
        if (most >= saturation)
            for (Py_ssize_t y = 0; y < frame->ny; y++)
                for (Py_ssize_t x = 0; x < frame->nx; x++)
                    if (frame->pixels[y * frame->nx + x] >= saturation &&
                        median_around(frame, y, x) > (float)((double)saturation / 10.0))
                        star[y * frame->nx + x] = is_saturated = 1;
        if (is_saturated) {
            grow(star, grown, frame->ny, frame->nx, 2);
            grow(grown, more, frame->ny, frame->nx, 2);
        }
        grow(frame->mask, more, frame->ny, frame->nx, 1);
        memcpy(frame->mask, more, n);
    }
    int is_done = star && grown && more;
    free(star);
    free(grown);
    free(more);
    return is_done;
}

PyObject *cosmic_rays(PyObject *module, PyObject *arguments)
{
    PyObject *pixels_object, *mask_object, *found_object;
    Py_buffer pixels, mask, found;
    float read_noise, saturation, limit, fraction, object_limit;
    int n_rounds, is_done = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOOfffffi:cosmic_rays", &pixels_object, &mask_object, &found_object, &read_noise,
                          &saturation, &limit, &fraction, &object_limit, &n_rounds))
        return NULL;
    if (open_array(pixels_object, &pixels, 2, FLOAT32, WRITE, "pixels") < 0)
        return NULL;
    if (open_array(mask_object, &mask, 2, BOOL, WRITE, "mask") < 0) {
        PyBuffer_Release(&pixels);
        return NULL;
    }
    if (open_array(found_object, &found, 2, BOOL, WRITE, "found") < 0) {
        PyBuffer_Release(&pixels);
        PyBuffer_Release(&mask);
        return NULL;
    }
    Frame frame = {.ny = pixels.shape[0], .nx = pixels.shape[1], .pixels = pixels.buf, .mask = mask.buf, .found = found.buf};
    frame.read_variance = read_noise * read_noise;
    frame.limit = limit;
    frame.low_limit = fraction * limit;
    frame.object_limit = object_limit;
    if (mask.shape[0] != frame.ny || mask.shape[1] != frame.nx || found.shape[0] != frame.ny ||
        found.shape[1] != frame.nx || frame.ny < 2 * REACH || frame.nx < 2 * REACH) {
        PyErr_Format(PyExc_ValueError, "pixels, mask and found must have one shape, of at least %d x %d", 2 * REACH, 2 * REACH);
    } else {
        const size_t n = (size_t)(frame.ny * frame.nx);
        frame.variance = calloc(n, sizeof *frame.variance); /* pages that are not touched cost nothing */
        frame.is_cleaned = calloc(n, 1);
        frame.is_dirty = malloc((size_t)((frame.ny / TILE + 1) * (frame.nx / TILE + 1)));
        Window *window = calloc(1, sizeof *window);
        if (frame.variance && frame.is_cleaned && frame.is_dirty && window) {
            Py_BEGIN_ALLOW_THREADS
            memset(frame.found, 0, n);
            if (mask_saturated(&frame, saturation))
                search(&frame, window, n_rounds);
            else
                frame.is_out_of_memory = 1;
            Py_END_ALLOW_THREADS
            is_done = !frame.is_out_of_memory;
        }
        if (!is_done)
            PyErr_NoMemory();
        free(window);
        free(frame.variance);
        free(frame.is_cleaned);
        free(frame.is_dirty);
        free(frame.hits);
    }
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&mask);
    PyBuffer_Release(&found);
    if (!is_done)
        return NULL;
    Py_RETURN_NONE;
}
