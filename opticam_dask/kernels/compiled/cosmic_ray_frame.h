/* A frame in which L.A.Cosmic is at work: its pixels, what stands in place of cosmic rays, and saturated stars. */

#ifndef OPTICAM_DASK_COSMIC_RAY_FRAME_H
#define OPTICAM_DASK_COSMIC_RAY_FRAME_H

#include "arrays.h"
#include "medians.h"

#include <stdlib.h>
#include <string.h>

#define EDGE 3  /* pixels nearer to the border are never taken for cosmic rays: the median there is the pixel itself */

typedef struct {
    Py_ssize_t place;
    float original; /* the pixel before it was cleaned */
    float value, variance;
} Hit;

/* What is known of a block; `seeds` has a bit for each pixel that is a cosmic ray by itself. */
typedef struct {
    uint64_t seeds;
    float lowest, peak; /* least pixel, and four times the largest Laplacian, as they are stored */
    uint8_t is_dirty, is_done;
} Block;

typedef struct {
    Py_ssize_t ny, nx, n_down, n_across;
    const float *pixels;    /* electrons, or */
    const uint16_t *counts; /* what they are but for gain and offset */
    double gain, offset;
    const uint8_t *given; /* pixels that are never taken for cosmic rays, nor used to clean others; or none */
    uint8_t *mask;        /* these, and saturated stars */
    uint8_t *found;       /* cosmic rays */
    Block *blocks;
    Hit *hits;
    uint32_t *slots; /* number of the hit at a place, from 1 on: a table by hashes of places */
    size_t n_hits, n_room, n_slots;
    float read_variance, limit, low_limit, object_limit;
    float least, most; /* of the pixels as they are stored */
    float least_peak;  /* up to which no block has a pixel above the limit */
    int has_level;
    float level; /* median of the frame, for pixels without a good one around them */
    int is_out_of_memory;
} Frame;

static float to_electrons(const Frame *frame, uint16_t count)
{
    return (float)((double)count * frame->gain - frame->offset);
}

static Hit *hit_at(const Frame *frame, Py_ssize_t place)
{
    size_t slot = ((size_t)place * 2654435761u) & (frame->n_slots - 1);
    while (frame->hits[frame->slots[slot] - 1].place != place)
        slot = (slot + 1) & (frame->n_slots - 1);
    return &frame->hits[frame->slots[slot] - 1];
}

static float light_of(const Frame *frame, Py_ssize_t place)
{
    if (frame->found[place])
        return hit_at(frame, place)->value;
    return frame->counts ? to_electrons(frame, frame->counts[place]) : frame->pixels[place];
}

static int is_good(const Frame *frame, Py_ssize_t place)
{
    return !frame->mask || !frame->mask[place];
}

/* A row of the frame as it is stored; `row` is room for it. */
static const float *stored_row(const Frame *frame, Py_ssize_t y, float *row)
{
    if (!frame->counts)
        return frame->pixels + y * frame->nx;
    const uint16_t *counts = frame->counts + y * frame->nx;
    for (Py_ssize_t x = 0; x < frame->nx; x++)
        row[x] = (float)(int32_t)counts[x];
    return row;
}

/* Room for more hits; 0 where there is none. */
static int make_room(Frame *frame)
{
    const size_t n_room = frame->n_room ? 2 * frame->n_room : 512, n_slots = 4 * n_room;
    Hit *hits = realloc(frame->hits, n_room * sizeof *hits);
    if (hits)
        frame->hits = hits;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!hits || !slots) {
        free(slots);
        return 0;
    }
    free(frame->slots);
    frame->slots = slots;
    frame->n_room = n_room;
    frame->n_slots = n_slots;
    for (size_t i = 0; i < frame->n_hits; i++) {
        size_t slot = ((size_t)hits[i].place * 2654435761u) & (n_slots - 1);
        while (slots[slot])
            slot = (slot + 1) & (n_slots - 1);
        slots[slot] = (uint32_t)(i + 1);
    }
    return 1;
}

static void keep_hit(Frame *frame, Py_ssize_t place)
{
    if (frame->found[place])
        return;
    if (frame->n_hits == frame->n_room && !make_room(frame)) {
        frame->is_out_of_memory = 1;
        return;
    }
    const float light = light_of(frame, place);
    const Hit hit = {place, light, light, light + frame->read_variance};
    size_t slot = ((size_t)place * 2654435761u) & (frame->n_slots - 1);
    while (frame->slots[slot])
        slot = (slot + 1) & (frame->n_slots - 1);
    frame->hits[frame->n_hits++] = hit;
    frame->slots[slot] = (uint32_t)frame->n_hits;
    frame->found[place] = 1;
}

/* Median along the rows and columns around one pixel, as median_filter has it. */
static float median_around(const Frame *frame, Py_ssize_t y, Py_ssize_t x)
{
    if (y < EDGE || x < EDGE || y >= frame->ny - EDGE || x >= frame->nx - EDGE)
        return light_of(frame, y * frame->nx + x);
    float row[7], rows[7], median[7];
    for (int down = -EDGE; down <= EDGE; down++) {
        for (int across = -EDGE; across <= EDGE; across++)
            row[EDGE + across] = light_of(frame, (y + down) * frame->nx + x + across);
        medians_of_7(row + EDGE, median, 0, 1, 1);
        rows[EDGE + down] = median[0];
    }
    medians_of_7(rows + EDGE, median, 0, 1, 1);
    return median[0];
}

/* Mark what lies around the marked pixels: the square of 3 x 3, or that of 5 x 5 without its corners. Pixels nearer to
   the border than that take nothing up. */
static void grow(const uint8_t *from, uint8_t *to, Py_ssize_t ny, Py_ssize_t nx, int half)
{
    const uint8_t *end = from + ny * nx, *at = memchr(from, 1, (size_t)(ny * nx));
    for (; at; at = at + 1 < end ? memchr(at + 1, 1, (size_t)(end - at - 1)) : NULL) {
        const Py_ssize_t y = (at - from) / nx, x = (at - from) % nx;
        to[y * nx + x] = 1;
        for (Py_ssize_t dy = -half; dy <= half; dy++)
            for (Py_ssize_t dx = -half; dx <= half; dx++)
                if (y + dy >= half && y + dy < ny - half && x + dx >= half && x + dx < nx - half &&
                    !(half == 2 && labs((long)dy) == 2 && labs((long)dx) == 2))
                    to[(y + dy) * nx + x + dx] = 1;
    }
}

/* Mark the saturated pixels around which others are bright, too; returns whether there are any. */
static int mark_saturated(const Frame *frame, uint8_t *star, float *room, float saturation)
{
    float level = saturation; /* as pixels are stored */
    int has_stars = 0;
    if (frame->counts) {
        int32_t count = 0;
        while (count < UINT16_MAX && !(to_electrons(frame, (uint16_t)count) >= saturation))
            count++;
        level = (float)count;
    }
    for (Py_ssize_t y = 0; y < frame->ny; y++) {
        const float *row = stored_row(frame, y, room);
        int n_high = 0;
        for (Py_ssize_t x = 0; x < frame->nx; x++)
            n_high += row[x] >= level;
        for (Py_ssize_t x = 0; n_high && x < frame->nx; x++)
            if (row[x] >= level && median_around(frame, y, x) > (float)((double)saturation / 10.0))
                star[y * frame->nx + x] = has_stars = 1;
    }
    return has_stars;
}

/* Saturated stars are no cosmic rays, nor is what lies next to masked pixels. Returns 0 where memory lacks. */
static int mask_saturated(Frame *frame, float *room, float saturation)
{
    const size_t n = (size_t)(frame->ny * frame->nx);
    const int is_masked = frame->given && memchr(frame->given, 1, n) != NULL;
    const double most = frame->counts ? frame->most * frame->gain - frame->offset : frame->most;
    const int may_saturate = (float)most >= saturation;
    if (!is_masked && !may_saturate)
        return 1;
    uint8_t *star = calloc(n, 1), *grown = calloc(n, 1);
    frame->mask = calloc(n, 1);
    const int is_done = star && grown && frame->mask;
    if (is_done && may_saturate && mark_saturated(frame, star, room, saturation)) {
        grow(star, grown, frame->ny, frame->nx, 2);
        grow(grown, frame->mask, frame->ny, frame->nx, 2);
    }
    if (is_done && is_masked)
        grow(frame->given, frame->mask, frame->ny, frame->nx, 1);
    free(star);
    free(grown);
    return is_done;
}

#endif
