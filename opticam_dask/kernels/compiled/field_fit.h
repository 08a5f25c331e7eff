/* Moments of the stars of a frame, fitted so that no single star decides. */

#ifndef OPTICAM_DASK_FIELD_FIT_H
#define OPTICAM_DASK_FIELD_FIT_H

#include "arrays.h"

#define MOST_TERMS 6
#define N_MOMENTS 3

/* Numbers of field_form.py, in this order. */
typedef struct {
    double n_steps, at_rest, median_distance, least_spread, reach, ridge;
    double doubted, elongated, alike, still_longer, longest, few, n_rounds, settled, insignificant, worst_places;
} Limits;

typedef struct {
    double value, weight;
    Py_ssize_t index;
} Entry;

/* The stars: terms at their places (n, term), moments (3, n), and what they count. */
typedef struct {
    Py_ssize_t n;
    int n_terms;
    const double *design, *moments, *error, *trust;
} Stars;

/* Median in which entries count with their weights, linear between entries. */
double weighted_median(Entry *entries, Py_ssize_t n);

/* Fit from the coefficients (3, term) on; weights of the stars, and the size (square pixels) that errors refer to. */
double fit_robustly(const Stars *stars, const Limits *limits, double *coefficients, double *weight, double *distance,
                    Entry *entries);

/* Mean square of the terms from `first` on in units of their errors, without the star that they rest on most. */
double significance(const Stars *stars, const Limits *limits, const double *weight, double size, int first);

#endif
