/* The kernels that are worth compiling; each has a form in NumPy that computes the same. */

#include "arrays.h"

/* Number of this set of functions and their arguments, which the package asks for: raised with every change of them. */
#define INTERFACE 1

static PyMethodDef methods[] = {
    {"adaptive_moments", adaptive_moments, METH_VARARGS, "Second moments in windows that adapt to the sources."},
    {"box_statistics", box_statistics, METH_VARARGS, "Level and scatter of boxes after a clip."},
    {"connected_components", connected_components, METH_VARARGS, "Connected components of a graph."},
    {"cosmic_rays", cosmic_rays, METH_VARARGS, "Find cosmic rays and replace them."},
    {"elliptical_radius", elliptical_radius, METH_VARARGS, "Radius of the pixels of cut-outs."},
    {"field_fit", field_fit, METH_VARARGS, "Moments of the stars of a frame."},
    {"fit_stars", fit_stars, METH_VARARGS, "Fit the profile to stars."},
    {"fit_windows", fit_windows, METH_VARARGS, "Least squares in windows of boxes of the sky."},
    {"judge_pixels", judge_pixels, METH_VARARGS, "Errors and stray pixels of a group of stars."},
    {"light_at", light_at, METH_VARARGS, "Light at radii, from a table."},
    {"star_light", star_light, METH_VARARGS, "Light of stars in their windows."},
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
