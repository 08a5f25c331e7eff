/* Medians of few values for many pixels at once, and a rank of many values. */

#ifndef OPTICAM_DASK_MEDIANS_H
#define OPTICAM_DASK_MEDIANS_H

/* Networks that leave the median in its place (N. Devillard 1998, Fast median search: an ANSI C implementation). */
#define ORDER(a, b)                  \
    do {                             \
        float least = a < b ? a : b; \
        b = a < b ? b : a;           \
        a = least;                   \
    } while (0)

#define AT(k) from[x + (k) * step]

static inline void medians_of_5(const float *from, float *to, Py_ssize_t first, Py_ssize_t last, Py_ssize_t step)
{
    for (Py_ssize_t x = first; x < last; x++) {
        float a = AT(-2), b = AT(-1), c = AT(0), d = AT(1), e = AT(2);
        ORDER(a, b); ORDER(d, e); ORDER(a, d); ORDER(b, e); ORDER(b, c); ORDER(c, d); ORDER(b, c);
        to[x] = c;
    }
}

static inline void medians_of_7(const float *from, float *to, Py_ssize_t first, Py_ssize_t last, Py_ssize_t step)
{
    for (Py_ssize_t x = first; x < last; x++) {
        float a = AT(-3), b = AT(-2), c = AT(-1), d = AT(0), e = AT(1), f = AT(2), g = AT(3);
        ORDER(a, f); ORDER(a, d); ORDER(b, g); ORDER(c, e); ORDER(a, b); ORDER(d, f); ORDER(c, g);
        ORDER(c, d); ORDER(d, g); ORDER(e, f); ORDER(b, e); ORDER(b, d); ORDER(d, e);
        to[x] = d;
    }
}

static inline void medians_of_9(const float *from, float *to, Py_ssize_t first, Py_ssize_t last, Py_ssize_t step)
{
    for (Py_ssize_t x = first; x < last; x++) {
        float a = AT(-4), b = AT(-3), c = AT(-2), d = AT(-1), e = AT(0), f = AT(1), g = AT(2), h = AT(3), i = AT(4);
        ORDER(b, c); ORDER(e, f); ORDER(h, i); ORDER(a, b); ORDER(d, e); ORDER(g, h); ORDER(b, c);
        ORDER(e, f); ORDER(h, i); ORDER(a, d); ORDER(f, i); ORDER(e, h); ORDER(d, g); ORDER(b, e);
        ORDER(c, f); ORDER(e, h); ORDER(e, c); ORDER(g, e); ORDER(e, c);
        to[x] = e;
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

#undef AT
#undef ORDER

#endif
