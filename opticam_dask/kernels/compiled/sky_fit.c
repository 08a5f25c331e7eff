/* Least squares in windows of boxes of the sky: see sky_level.py for what is computed, and for the form in NumPy. */

#include "sky_fit.h"

#include <string.h>

/* Solve the equations of each lane by elimination. */
static void solve(double normal[MOST_TERMS][MOST_TERMS][LANES], double right[MOST_TERMS][LANES], int n_terms)
{
    for (int pivot = 0; pivot < n_terms; pivot++) {
        for (int row = pivot + 1; row < n_terms; row++) {
            double factor[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                factor[lane] = normal[row][pivot][lane] / normal[pivot][pivot][lane];
                right[row][lane] -= factor[lane] * right[pivot][lane];
            }
            for (int column = pivot; column < n_terms; column++)
                for (int lane = 0; lane < LANES; lane++)
                    normal[row][column][lane] -= factor[lane] * normal[pivot][column][lane];
        }
    }
    for (int row = n_terms - 1; row >= 0; row--)
        for (int lane = 0; lane < LANES; lane++) {
            double left = right[row][lane];
            for (int column = row + 1; column < n_terms; column++)
                left -= normal[row][column][lane] * right[column][lane];
            right[row][lane] = left / normal[row][row][lane];
        }
}

/* Normal equations, and the weighted mean of the values, which they are taken from so that the ridge does not pull at
 * the level of the sky. */
static void set_up(const Surface *surface, const Windows *windows, double weights[MOST_BOXES][LANES],
                   double normal[MOST_TERMS][MOST_TERMS][LANES], double mean[LANES], double count[LANES])
{
    const int n_terms = surface->n_terms;
    memset(normal, 0, MOST_TERMS * sizeof *normal);
    for (int lane = 0; lane < LANES; lane++)
        mean[lane] = count[lane] = 0.0;
    for (int box = 0; box < surface->n_boxes; box++) {
        for (int lane = 0; lane < LANES; lane++) {
            weights[box][lane] = surface->kernel[box] * windows->weights[box][lane];
            count[lane] += windows->weights[box][lane] > 0.0 ? surface->kernel[box] : 0.0;
            mean[lane] += weights[box][lane] * windows->values[box][lane];
        }
        for (int t = 0; t < n_terms; t++)
            for (int u = 0; u <= t; u++) {
                const double product = surface->basis[t][box] * surface->basis[u][box];
                for (int lane = 0; lane < LANES; lane++)
                    normal[t][u][lane] += product * weights[box][lane];
            }
    }
    for (int t = 0; t < n_terms; t++)
        for (int lane = 0; lane < LANES; lane++) {
            for (int u = 0; u < t; u++)
                normal[u][t][lane] = normal[t][u][lane];
            normal[t][t][lane] += t ? surface->ridge : 0.0;
        }
    for (int lane = 0; lane < LANES; lane++) {
        normal[0][0][lane] = normal[0][0][lane] <= 0.0 ? 1.0 : normal[0][0][lane];
        mean[lane] /= normal[0][0][lane];
    }
}

void fit_windows(const Surface *surface, const Windows *windows, Fitted *fitted)
{
    const int n_terms = surface->n_terms;
    double weights[MOST_BOXES][LANES], mean[LANES];
    double normal[MOST_TERMS][MOST_TERMS][LANES], right[MOST_TERMS][LANES] = {{0.0}};
    set_up(surface, windows, weights, normal, mean, fitted->count);
    for (int box = 0; box < surface->n_boxes; box++)
        for (int t = 0; t < n_terms; t++)
            for (int lane = 0; lane < LANES; lane++)
                right[t][lane] += surface->basis[t][box] * (weights[box][lane] * (windows->values[box][lane] - mean[lane]));
    solve(normal, right, n_terms);
    for (int lane = 0; lane < LANES; lane++) {
        right[0][lane] += mean[lane];
        fitted->square[lane] = 0.0;
    }
    for (int box = 0; box < surface->n_boxes; box++) {
        double *model = fitted->model[box];
        for (int lane = 0; lane < LANES; lane++)
            model[lane] = 0.0;
        for (int t = 0; t < n_terms; t++)
            for (int lane = 0; lane < LANES; lane++)
                model[lane] += surface->basis[t][box] * right[t][lane];
        for (int lane = 0; lane < LANES; lane++) {
            const double residual = windows->values[box][lane] - model[lane];
            fitted->square[lane] += weights[box][lane] * residual * residual;
        }
    }
    memcpy(fitted->middle, fitted->model[surface->n_boxes / 2], sizeof fitted->middle);
}
