/* The kernels that are worth compiling; each has a form in NumPy that computes the same. */

#include "arrays.h"

static PyMethodDef methods[] = {
    {"box_statistics", box_statistics, METH_VARARGS, "Level and scatter of boxes after a clip."},
    {"cosmic_rays", cosmic_rays, METH_VARARGS, "Find cosmic rays and replace them."},
    {"elliptical_radius", elliptical_radius, METH_VARARGS, "Radius of the pixels of cut-outs."},
    {"light_at", light_at, METH_VARARGS, "Light at radii, from a table."},
    {"zoom_windows", zoom_windows, METH_VARARGS, "Spline of a mesh in windows."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "opticam_dask.kernels.compiled.native",
    .m_doc = "Kernels in C.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_native(void);

PyMODINIT_FUNC PyInit_native(void)
{
    return PyModuleDef_Init(&definition);
}
