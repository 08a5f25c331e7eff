/* Stars in their windows, which are fitted one by one (star_fit.c) or together (group_fit.c). */

#ifndef OPTICAM_DASK_STAR_FIT_H
#define OPTICAM_DASK_STAR_FIT_H

#include "arrays.h"
#include "sums.h"

/* The profile: light per unit of area by radius, in units of sigma. */
typedef struct {
    const double *table;
    double edge, step;
} Profile;

/* A star: its window's lower corner, and cosine, sine, semimajor, semiminor and area of its form. */
typedef struct {
    int64_t x0, y0;
    const double *form;
} Place;

#define N_FORM 5

/* Numbers of misfit.py, in this order. */
typedef struct {
    double position_error, model_error;
    double clip, grow, skew, foreign_error, core, median_size, median_square, no_star;
    double width_error, step, longest, n_iterations;
} Limits;

/* One star. */
typedef struct {
    Py_ssize_t size, n;
    const double *rms, *foreign, *response, *unlike;
    const char *near;
    double *own, *model, *templates, *spare; /* own pixels, model of the star; room for four windows, and for two */
    double *errors, *deviation;
    char *is_stray;
} Star;

/* Rows of a window. */
typedef struct {
    Py_ssize_t size, first, end; /* of each row; and which of them */
} Rows;

/* Light of a star in some rows of a window; the others are as they were. */
void fill_light(const Profile *profile, const Place *place, double x, double y, Rows rows, double *light);

/* Change of the light with x and y, in one window after the other; `spare` has room for a window. */
void fill_slopes(const Profile *profile, const Place *place, double x, double y, Rows rows, double step, double *slopes,
                 double *spare);

/* Whether a table reaches to its edge. */
int is_profile(const Py_buffer *table, double edge, double step);

/* How much wider than by their errors the pixels in the core of a star scatter; at least 1. */
double typical_deviation(const Star *star, const Limits *limits);

/* Mark the pixels that do not belong to a star. */
void find_stray(const Star *star, const Limits *limits, double tolerance);

/* Errors and deviations of the pixels of a window about the model of its stars, and the stray ones; `unknown`, the
 * variance of the model by the places, may be missing: limits are then as wide as the deviations. */
void judge_window(const Star *star, const Limits *limits, double model_error, const double *unknown);

#endif
