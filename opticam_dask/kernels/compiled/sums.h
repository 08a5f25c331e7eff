/* What several kernels compute: exponentials, small systems of equations, components, the order of values.
 *
 * The exponential is our own: that of the C library differs between processors in the last bit. */

#ifndef OPTICAM_DASK_SUMS_H
#define OPTICAM_DASK_SUMS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Exponential of a number from -700 to 700, to 2e-16; what is less counts as -700. */
static inline double exponential(double x)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: its last bits become the nearest whole number */
    x = x > -700.0 ? x : -700.0;
    const double whole = x * 1.4426950408889634 + shift, power = whole - shift;
    const double r = (x - power * 0x1.62e42fefa0000p-1) - power * 0x1.cf79abc9e3b3ap-40;
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    uint64_t bits;
    double scale;
    memcpy(&bits, &whole, sizeof bits);
    bits = (bits + 1023u) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* Solve `n` equations (row by row, overwritten) for one right-hand side, which becomes the solution; by elimination
 * with the largest pivot of each column. A system without a solution gives infinities or NaN. */
static inline void solve_equations(double *matrix, double *right, int n)
{
    for (int pivot = 0; pivot < n; pivot++) {
        int best = pivot;
        for (int row = pivot + 1; row < n; row++)
            if (fabs(matrix[row * n + pivot]) > fabs(matrix[best * n + pivot]))
                best = row;
        if (best != pivot) {
            for (int column = pivot; column < n; column++) {
                const double kept = matrix[pivot * n + column];
                matrix[pivot * n + column] = matrix[best * n + column];
                matrix[best * n + column] = kept;
            }
            const double kept = right[pivot];
            right[pivot] = right[best];
            right[best] = kept;
        }
        for (int row = pivot + 1; row < n; row++) {
            const double factor = matrix[row * n + pivot] / matrix[pivot * n + pivot];
            for (int column = pivot + 1; column < n; column++)
                matrix[row * n + column] -= factor * matrix[pivot * n + column];
            right[row] -= factor * right[pivot];
        }
    }
    for (int row = n - 1; row >= 0; row--) {
        for (int column = row + 1; column < n; column++)
            right[row] -= matrix[row * n + column] * right[column];
        right[row] /= matrix[row * n + row];
    }
}

/* Value of a rank of n numbers, which are brought into another order: what is left of the rank then is no larger, what
 * is right of it no smaller. */
static inline double value_of_rank(double *values, Py_ssize_t n, Py_ssize_t rank)
{
    Py_ssize_t first = 0, last = n - 1;
    while (first < last) {
        const double pivot = values[first + (last - first) / 2];
        Py_ssize_t low = first, high = last;
        while (low <= high) {
            while (values[low] < pivot)
                low++;
            while (values[high] > pivot)
                high--;
            if (low <= high) {
                const double kept = values[low];
                values[low++] = values[high];
                values[high--] = kept;
            }
        }
        if (rank <= high)
            last = high;
        else if (rank >= low)
            first = low;
        else
            break;
    }
    return values[rank];
}

/* Median of numbers, which are brought into another order; NaN without any, or where one is NaN. */
static inline double median_of(double *values, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (isnan(values[i]))
            return values[i];
    if (n < 1)
        return (double)NAN;
    const Py_ssize_t rank = (n - 1) / 2;
    const double below = value_of_rank(values, n, rank);
    double above = below;
    if (n % 2 == 0) {
        above = values[rank + 1];
        for (Py_ssize_t i = rank + 2; i < n; i++)
            above = values[i] < above ? values[i] : above;
    }
    return 0.5 * (below + above);
}

/* First node of the component of a node so far, of a graph in which each knows an earlier one; paths are halved. */
static inline int64_t first_of(int64_t *parent, int64_t node)
{
    while (parent[node] != node) {
        parent[node] = parent[parent[node]];
        node = parent[node];
    }
    return node;
}

/* Order of values, for qsort. */
static inline int by_value(const void *one, const void *other)
{
    const double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

#endif
