/* Least squares in windows of boxes of the sky. */

#ifndef OPTICAM_DASK_SKY_FIT_H
#define OPTICAM_DASK_SKY_FIT_H

#define LANES 8 /* windows that are fitted beside each other, so that loops over them become vector instructions */
#define MOST_TERMS 6
#define MOST_BOXES 81

/* Values of the boxes of some windows, and what each of them counts. */
typedef struct {
    double values[MOST_BOXES][LANES], weights[MOST_BOXES][LANES];
} Windows;

/* What is fitted: terms of a polynomial at the boxes of a window, and how much each place of the window counts. */
typedef struct {
    int n_boxes, n_terms;
    double basis[MOST_TERMS][MOST_BOXES], kernel[MOST_BOXES];
    double ridge;
} Surface;

/* The fit: in the middle; the weighted sum of squared residuals; the boxes that count; at all boxes. */
typedef struct {
    double middle[LANES], square[LANES], count[LANES], model[MOST_BOXES][LANES];
} Fitted;

void fit_windows(const Surface *surface, const Windows *windows, Fitted *fitted);

#endif
