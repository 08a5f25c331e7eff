/* What L.A.Cosmic makes of a block of a frame and the pixels around it; see cosmic_rays.c. */

#ifndef OPTICAM_DASK_COSMIC_RAY_WINDOW_H
#define OPTICAM_DASK_COSMIC_RAY_WINDOW_H

#include "medians.h"

#include <math.h>
#include <string.h>

#define BLOCK 8
#define REACH 8 /* how far the pixels of a block depend on others */
#define SIDE (BLOCK + 2 * REACH)
#define LEAST_VARIANCE 0.00001f

/* A part of a window: the first row and column, and those after the last. */
typedef struct {
    Py_ssize_t top, bottom, left, right;
} Area;

/* Room for a block and what it depends on. */
typedef struct {
    Py_ssize_t top, left; /* where it lies in the frame */
    Py_ssize_t height, width;
    Area block;
    float light[SIDE * SIDE], variance[SIDE * SIDE], noise[SIDE * SIDE], signal[SIDE * SIDE], around[SIDE * SIDE];
    float fine[SIDE * SIDE], coarse[SIDE * SIDE], rows[SIDE * SIDE];
    uint8_t marked[SIDE * SIDE], grown[SIDE * SIDE];
} Window;

static Area widened(const Window *window, int by)
{
    const Area block = window->block;
    const Area wide = {block.top > by ? block.top - by : 0,
                       block.bottom + by < window->height ? block.bottom + by : window->height,
                       block.left > by ? block.left - by : 0,
                       block.right + by < window->width ? block.right + by : window->width};
    return wide;
}

/* Median along the rows, then along the columns. Pixels at the border of the frame, where a window ends with it, stay as
   they are, as astroscrappy has it. */
static void median_filter(Window *window, const float *from, float *to, Area area, int length)
{
    const Py_ssize_t half = length / 2, width = window->width;
    for (Py_ssize_t y = area.top; y < area.bottom; y++)
        memcpy(to + y * width + area.left, from + y * width + area.left, (size_t)(area.right - area.left) * sizeof *to);
    const Py_ssize_t top = area.top > half ? area.top : half, left = area.left > half ? area.left : half;
    const Py_ssize_t bottom = area.bottom < window->height - half ? area.bottom : window->height - half;
    const Py_ssize_t right = area.right < width - half ? area.right : width - half;
    for (Py_ssize_t y = top - half; y < bottom + half; y++) {
        if (length == 5)
            medians_of_5(from + y * width, window->rows + y * width, left, right, 1);
        else if (length == 7)
            medians_of_7(from + y * width, window->rows + y * width, left, right, 1);
        else
            medians_of_9(from + y * width, window->rows + y * width, left, right, 1);
    }
    for (Py_ssize_t y = top; y < bottom; y++) {
        if (length == 5)
            medians_of_5(window->rows + y * width, to + y * width, left, right, width);
        else if (length == 7)
            medians_of_7(window->rows + y * width, to + y * width, left, right, width);
        else
            medians_of_9(window->rows + y * width, to + y * width, left, right, width);
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

static void set_laplacian(Window *window, Area area)
{
    const Py_ssize_t height = window->height, width = window->width;
    for (Py_ssize_t y = area.top; y < area.bottom; y++) {
        const int is_inside = y > 0 && y < height - 1;
        const Py_ssize_t first = is_inside && area.left == 0 ? 1 : area.left, last = area.right < width ? area.right : width - 1;
        float *to = window->signal + y * width;
        for (Py_ssize_t x = area.left; x < area.right; x++)
            if (!is_inside || x < first || x >= last)
                to[x] = laplacian_at(window->light, y, x, height, width, width);
        if (is_inside)
            laplacian_row(window->light + y * width, to, first, last, width);
    }
}

/* Noise of pixels, and their Laplacian in units of it. */
static void set_signal(Window *window, Area area)
{
    const Py_ssize_t width = window->width;
    median_filter(window, window->variance, window->noise, area, 7);
    set_laplacian(window, area);
    for (Py_ssize_t y = area.top; y < area.bottom; y++) {
        for (Py_ssize_t i = y * width + area.left; i < y * width + area.right; i++) {
            window->noise[i] = sqrtf(window->noise[i] < LEAST_VARIANCE ? LEAST_VARIANCE : window->noise[i]);
            window->signal[i] /= 2.0f * window->noise[i];
        }
    }
}

#endif
