/* The kernels that are worth compiling; each has a form in NumPy that computes the same. */

#include "arrays.h"

/* Number of this set of functions and their arguments, which the package asks for: raised with every change of them. */
#define INTERFACE 14

static PyMethodDef methods[] = {
    {"adaptive_moments", adaptive_moments, METH_VARARGS, "Second moments in windows that adapt to the sources."},
    {"add_windows", add_windows, METH_VARARGS, "Sums of windows, each times a number."},
    {"aperture_sums", aperture_sums, METH_VARARGS, "Sums over the pixels of apertures."},
    {"block_excess", block_excess, METH_VARARGS, "Deviations of windows in blocks."},
    {"box_statistics", box_statistics, METH_VARARGS, "Level and scatter of boxes after a clip."},
    {"centroid_sums", centroid_sums, METH_VARARGS, "Sums over Gaussian windows."},
    {"compare_stars", compare_stars, METH_VARARGS, "Stars against their profile."},
    {"connected_components", connected_components, METH_VARARGS, "Connected components of a graph."},
    {"cosmic_rays", cosmic_rays, METH_VARARGS, "Find cosmic rays and replace them."},
    {"cut_out", cut_out, METH_VARARGS, "Windows of an image."},
    {"disk_shares", disk_shares, METH_VARARGS, "Shares of pixels in a disk."},
    {"disk_stretches", disk_stretches, METH_VARARGS, "Pixels of disks."},
    {"elliptical_radius", elliptical_radius, METH_VARARGS, "Radius of the pixels of cut-outs."},
    {"extremes", extremes, METH_O, "Lowest and highest pixel."},
    {"field_form", field_form, METH_VARARGS, "Form of the stars of a frame."},
    {"find_basins", find_basins, METH_VARARGS, "Basins of the maxima of a frame."},
    {"fit_group", fit_group, METH_VARARGS, "Fit stars that overlap together."},
    {"fit_stars", fit_stars, METH_VARARGS, "Fit the profile to stars."},
    {"fluxes_alone", fluxes_alone, METH_VARARGS, "Fluxes of stars one by one."},
    {"half_sample_mode", half_sample_mode, METH_O, "Mode of some numbers."},
    {"judge_pixels", judge_pixels, METH_VARARGS, "Errors and stray pixels of a group of stars."},
    {"inner_windows", inner_windows, METH_VARARGS, "Windows in windows."},
    {"label_pixels", label_pixels, METH_VARARGS, "Segments of the pixels of a frame."},
    {"large_segments", large_segments, METH_VARARGS, "Segments of a frame that have many pixels."},
    {"light_at", light_at, METH_VARARGS, "Light at radii, from a table."},
    {"match_positions", match_positions, METH_VARARGS, "Match positions one to one."},
    {"median", median, METH_O, "Median of some numbers."},
    {"merge_basins", merge_basins, METH_VARARGS, "Join basins that do not stand out."},
    {"mesh_medians", mesh_medians, METH_VARARGS, "Medians of the boxes of a mesh."},
    {"near_pairs", near_pairs, METH_VARARGS, "Pairs of positions near each other."},
    {"nearest_distances", nearest_distances, METH_VARARGS, "Distances to the nearest position."},
    {"pixel_facts", pixel_facts, METH_VARARGS, "Pixels that count, by what there is to say about them."},
    {"refine_match", refine_match, METH_VARARGS, "Refine a transform between two lists of sources."},
    {"segment_moments", segment_moments, METH_VARARGS, "Sums over the pixels of segments."},
    {"smooth_course", smooth_course, METH_VARARGS, "Smooth course of the boxes of the sky."},
    {"spline_at", spline_at, METH_VARARGS, "Spline of a mesh at places."},
    {"star_light", star_light, METH_VARARGS, "Light of stars in their windows."},
    {"subtract_sky", subtract_sky, METH_VARARGS, "Take the sky off a frame."},
    {"take_pixels", take_pixels, METH_VARARGS, "Number and sum of the pixels of stretches, box by box."},
    {"unsigned_counts", unsigned_counts, METH_O, "Pixels of a file as counts."},
    {"windowed_centroids", windowed_centroids, METH_VARARGS, "Centroids in Gaussian windows."},
    {"zoom_windows", zoom_windows, METH_VARARGS, "Spline of a mesh in windows."},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)add_constants},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "opticam_dask.kernels.compiled.native",
    .m_doc = "Kernels in C.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit_native(void);

PyMODINIT_FUNC PyInit_native(void)
{
    return PyModuleDef_Init(&definition);
}
