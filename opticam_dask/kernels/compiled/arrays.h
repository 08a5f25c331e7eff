/* Arrays that Python hands over, by the buffer protocol alone: neither NumPy's headers nor its version matter. */

#ifndef OPTICAM_DASK_ARRAYS_H
#define OPTICAM_DASK_ARRAYS_H

#define Py_LIMITED_API 0x030B0000 /* one shared object for Python 3.11 and all later ones */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#ifdef _MSC_VER
#define restrict __restrict
#endif

/* A function that is not taken into its caller, where the compiler might think it is hardly run. */
#ifdef __GNUC__
#define APART __attribute__((noinline))
#else
#define APART
#endif

/* A function that is compiled for several generations of processors, of which the one at hand is taken when the module is
 * loaded. Lanes of other widths give the same bits: nothing is contracted, and no sum changes its order. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define IN_LANES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define IN_LANES
#endif

/* Bring a row of pixels into the cache before it is needed, where no processor foresees which is the next. */
#ifdef __GNUC__
#define FETCH_ROW(from, n_bytes)                                      \
    for (size_t offset = 0; offset < (size_t)(n_bytes); offset += 64) \
    __builtin_prefetch((const char *)(from) + offset)
#else
#define FETCH_ROW(from, n_bytes)
#endif

/* Kinds of elements, named as in the struct module; integers are told by their size as well, which is always 64 bit
   (a C long or a C long long, by the platform). */
#define FLOAT32 'f'
#define FLOAT64 'd'
#define INT64 'q'
#define BOOL '?'
#define UINT16 'H'

#define READ 0
#define WRITE 1
#define OPTIONAL 2 /* to be read, or None */

/* Fill `view` with a C-contiguous native array of `ndim` dimensions and elements of a kind. Anything else, such as the
   big-endian pixels of a FITS file, is refused: returns -1 with a Python error set, and there is nothing to release. */
int open_array(PyObject *object, Py_buffer *view, int ndim, char kind, int access, const char *name);

typedef struct {
    PyObject *object;
    int ndim;
    char kind;
    int access;
    const char *name;
} Wanted;

#define MOST_ARRAYS 20

/* Open several arrays, or none of them; an OPTIONAL one that is None has a view without a buffer. */
int open_arrays(const Wanted *wanted, Py_buffer *views, int n);

/* The same of the arrays that a tuple of arguments begins with; what follows them is parsed by a format. */
int open_given(PyObject *arguments, Wanted *wanted, Py_buffer *views, int n, const char *rest, ...);

/* Room for `n` numbers; where there is none, NULL with a MemoryError, and the arrays are closed. */
double *room_for(Py_ssize_t n, Py_buffer *views, int n_arrays);

/* Close them; returns None, or NULL with a ValueError that says what is wrong. */
PyObject *release_arrays(Py_buffer *views, int n, const char *wrong);

/* Kind of the elements of an array as above, 0 for any other. */
char kind_of(const Py_buffer *view);

/* The same of an object; 0 where it is no array. */
char kind_of_object(PyObject *object);

PyObject *adaptive_moments(PyObject *module, PyObject *arguments);
PyObject *add_windows(PyObject *module, PyObject *arguments);
PyObject *aperture_sums(PyObject *module, PyObject *arguments);
PyObject *block_excess(PyObject *module, PyObject *arguments);
PyObject *box_statistics(PyObject *module, PyObject *arguments);
PyObject *centroid_sums(PyObject *module, PyObject *arguments);
PyObject *compare_stars(PyObject *module, PyObject *arguments);
PyObject *connected_components(PyObject *module, PyObject *arguments);
PyObject *cosmic_rays(PyObject *module, PyObject *arguments);
PyObject *cut_out(PyObject *module, PyObject *arguments);
PyObject *disk_shares(PyObject *module, PyObject *arguments);
PyObject *disk_stretches(PyObject *module, PyObject *arguments);
PyObject *elliptical_radius(PyObject *module, PyObject *arguments);
PyObject *extremes(PyObject *module, PyObject *argument);
PyObject *field_form(PyObject *module, PyObject *arguments);
PyObject *find_basins(PyObject *module, PyObject *arguments);
PyObject *fit_group(PyObject *module, PyObject *arguments);
PyObject *fit_stars(PyObject *module, PyObject *arguments);
PyObject *fluxes_alone(PyObject *module, PyObject *arguments);
PyObject *half_sample_mode(PyObject *module, PyObject *argument);
PyObject *judge_pixels(PyObject *module, PyObject *arguments);
PyObject *inner_windows(PyObject *module, PyObject *arguments);
PyObject *label_pixels(PyObject *module, PyObject *arguments);
PyObject *large_segments(PyObject *module, PyObject *arguments);
PyObject *light_at(PyObject *module, PyObject *arguments);
PyObject *match_positions(PyObject *module, PyObject *arguments);
PyObject *median(PyObject *module, PyObject *argument);
PyObject *merge_basins(PyObject *module, PyObject *arguments);
PyObject *mesh_medians(PyObject *module, PyObject *arguments);
PyObject *near_pairs(PyObject *module, PyObject *arguments);
PyObject *nearest_distances(PyObject *module, PyObject *arguments);
PyObject *pixel_facts(PyObject *module, PyObject *arguments);
PyObject *refine_match(PyObject *module, PyObject *arguments);
PyObject *segment_moments(PyObject *module, PyObject *arguments);
PyObject *smooth_course(PyObject *module, PyObject *arguments);
PyObject *spline_at(PyObject *module, PyObject *arguments);
PyObject *star_light(PyObject *module, PyObject *arguments);
PyObject *subtract_sky(PyObject *module, PyObject *arguments);
PyObject *take_pixels(PyObject *module, PyObject *arguments);
PyObject *unsigned_counts(PyObject *module, PyObject *argument);
PyObject *windowed_centroids(PyObject *module, PyObject *arguments);
PyObject *zoom_windows(PyObject *module, PyObject *arguments);

#endif
