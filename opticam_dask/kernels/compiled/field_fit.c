/* Moments of the stars of a frame, fitted so that no single star decides: see field_form.py for what is computed, and
 * for the form in NumPy. */

#include "field_fit.h"
#include "sums.h"

static int by_entry(const void *one, const void *other)
{
    const Entry *a = one, *b = other;
    const int order = (a->value > b->value) - (a->value < b->value);
    return order ? order : (a->index > b->index) - (a->index < b->index);
}

double weighted_median(Entry *entries, Py_ssize_t n)
{
    double total = 0.0, sum = 0.0, before = 0.0;
    qsort(entries, (size_t)n, sizeof *entries, by_entry);
    for (Py_ssize_t i = 0; i < n; i++)
        total += entries[i].weight;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double share = entries[i].weight / total;
        sum += share;
        const double place = sum - 0.5 * share;
        if (place > 0.5) {
            if (i == 0)
                return entries[0].value;
            const double slope = (entries[i].value - entries[i - 1].value) / (place - before);
            return slope * (0.5 - before) + entries[i - 1].value;
        }
        before = place;
    }
    return entries[n - 1].value;
}

static double expected_at(const Stars *stars, const double *coefficients, Py_ssize_t star, int moment)
{
    double sum = 0.0;
    for (int term = 0; term < stars->n_terms; term++)
        sum += coefficients[moment * stars->n_terms + term] * stars->design[star * stars->n_terms + term];
    return sum;
}

double fit_robustly(const Stars *stars, const Limits *limits, double *coefficients, double *weight, double *distance,
                    Entry *entries)
{
    const Py_ssize_t n = stars->n;
    const int n_terms = stars->n_terms;
    const double left = (double)(n - n_terms), freedom = n_terms > 1 ? (double)n / (left > 1.0 ? left : 1.0) : 1.0;
    const double least = limits->least_spread * limits->least_spread;
    double size = 0.0, told = 0.0, told_twice = 0.0;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double information = 1.0 / (stars->error[i] * stars->error[i]);
        told += information;
        told_twice += information * information;
    }
    const double most = n_terms == 1 ? told * told * told / (told_twice * told_twice) : (double)INFINITY;
    for (int step = 0; step < (int)limits->n_steps; step++) {
        double widths = 0.0;
        for (Py_ssize_t i = 0; i < n; i++) {
            double squares = 0.0;
            for (int moment = 0; moment < N_MOMENTS; moment++) {
                const double expected = expected_at(stars, coefficients, i, moment);
                const double away = stars->moments[moment * n + i] - expected;
                squares += away * away;
                widths += moment < 2 ? expected : 0.0;
            }
            distance[i] = sqrt(squares / N_MOMENTS);
        }
        size = 0.5 * widths / (double)n;
        for (Py_ssize_t i = 0; i < n; i++) {
            distance[i] /= size;
            const double relative = distance[i] / limits->median_distance;
            entries[i].value = freedom * relative * relative - stars->error[i] * stars->error[i];
            entries[i].weight = stars->trust[i];
            entries[i].index = i;
        }
        double spread = weighted_median(entries, n);
        spread = least > spread ? least : spread;
        const double shared = spread < most ? spread : least > most ? least : most; /* what counts against each star */
        double normal[MOST_TERMS * MOST_TERMS] = {0.0}, right[N_MOMENTS][MOST_TERMS] = {{0.0}}, change = 0.0;
        for (Py_ssize_t i = 0; i < n; i++) {
            const double noise = stars->error[i] * stars->error[i], variance = noise + spread;
            weight[i] = 1.0 / ((noise + shared) * (1.0 + distance[i] * distance[i] / (limits->reach * limits->reach * variance)));
            const double *terms = stars->design + i * n_terms;
            for (int t = 0; t < n_terms; t++) {
                for (int u = 0; u < n_terms; u++)
                    normal[t * n_terms + u] += terms[t] * terms[u] * weight[i];
                for (int moment = 0; moment < N_MOMENTS; moment++)
                    right[moment][t] += stars->moments[moment * n + i] * weight[i] * terms[t];
            }
        }
        for (int moment = 0; moment < N_MOMENTS; moment++) {
            double matrix[MOST_TERMS * MOST_TERMS];
            memcpy(matrix, normal, sizeof matrix);
            solve_equations(matrix, right[moment], n_terms);
            for (int t = 0; t < n_terms; t++) {
                double *coefficient = &coefficients[moment * n_terms + t];
                const double moved = fabs(right[moment][t] - *coefficient);
                change = moved > change || isnan(moved) ? moved : change;
                *coefficient = right[moment][t];
            }
        }
        if (change < limits->at_rest * size)
            break;
    }
    return size;
}

double significance(const Stars *stars, const Limits *limits, const double *weight, double size, int first)
{
    const Py_ssize_t n = stars->n;
    const int n_terms = stars->n_terms, n_chosen = n_terms - first;
    double normal[MOST_TERMS * MOST_TERMS] = {0.0}, total[N_MOMENTS][MOST_TERMS] = {{0.0}}, trace = 0.0;
    double least = (double)INFINITY;
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *terms = stars->design + i * n_terms;
        for (int t = 0; t < n_terms; t++) {
            for (int u = 0; u < n_terms; u++)
                normal[t * n_terms + u] += terms[t] * terms[u] * weight[i];
            for (int moment = 0; moment < N_MOMENTS; moment++)
                total[moment][t] += stars->moments[moment * n + i] * weight[i] * terms[t];
        }
    }
    for (int t = 0; t < n_terms; t++)
        trace += normal[t * (n_terms + 1)];
    for (Py_ssize_t i = 0; i < n; i++) {
        const double *terms = stars->design + i * n_terms;
        double others[MOST_TERMS * MOST_TERMS], matrix[MOST_TERMS * MOST_TERMS], values[N_MOMENTS][MOST_TERMS];
        double covariance[MOST_TERMS * MOST_TERMS], squares = 0.0;
        for (int t = 0; t < n_terms; t++)
            for (int u = 0; u < n_terms; u++)
                others[t * n_terms + u] = normal[t * n_terms + u] - terms[t] * terms[u] * weight[i] +
                                          (t == u ? limits->ridge * trace : 0.0);
        for (int moment = 0; moment < N_MOMENTS; moment++) {
            for (int t = 0; t < n_terms; t++)
                values[moment][t] = total[moment][t] - stars->moments[moment * n + i] * weight[i] * terms[t];
            memcpy(matrix, others, sizeof matrix);
            solve_equations(matrix, values[moment], n_terms);
        }
        for (int chosen = 0; chosen < n_chosen; chosen++) { /* a column of the inverse at a time */
            double column[MOST_TERMS] = {0.0};
            column[first + chosen] = 1.0;
            memcpy(matrix, others, sizeof matrix);
            solve_equations(matrix, column, n_terms);
            for (int t = 0; t < n_chosen; t++)
                covariance[t * n_chosen + chosen] = column[first + t];
        }
        for (int moment = 0; moment < N_MOMENTS; moment++) {
            double solved[MOST_TERMS];
            for (int t = 0; t < n_chosen; t++)
                solved[t] = values[moment][first + t] / size;
            memcpy(matrix, covariance, sizeof matrix);
            solve_equations(matrix, solved, n_chosen);
            for (int t = 0; t < n_chosen; t++)
                squares += solved[t] * values[moment][first + t] / size;
        }
        least = squares < least || isnan(squares) ? squares : least;
    }
    return least / (N_MOMENTS * n_chosen);
}
