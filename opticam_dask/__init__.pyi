# The names of __init__.py with their types: tests hold the two together.

from opticam_dask.api.analysis.analyzer import Analyzer as Analyzer
from opticam_dask.api.correctors import BiasCorrector as BiasCorrector
from opticam_dask.api.correctors import DarkNoiseCorrector as DarkNoiseCorrector
from opticam_dask.api.correctors import FlatFieldCorrector as FlatFieldCorrector
from opticam_dask.api.correctors import FringeCorrector as FringeCorrector
from opticam_dask.api.differential_photometer import DifferentialPhotometer as DifferentialPhotometer
from opticam_dask.api.kept_fits import save_fit as save_fit
from opticam_dask.api.reducer import Reducer as Reducer
from opticam_dask.api.sky import find_sky as find_sky
from opticam_dask.api.steps.align import align as align
from opticam_dask.api.steps.align import persist as persist
from opticam_dask.api.steps.align import reference as reference
from opticam_dask.api.steps.background import background as background
from opticam_dask.api.steps.background import subtract_background as subtract_background
from opticam_dask.api.steps.calibrate import calibrate as calibrate
from opticam_dask.api.steps.calibrate import calibration_masters as calibration_masters
from opticam_dask.api.steps.catalog import add_sources as add_sources
from opticam_dask.api.steps.catalog import catalog as catalog
from opticam_dask.api.steps.catalog import open_catalog as open_catalog
from opticam_dask.api.steps.coadd import coadd as coadd
from opticam_dask.api.steps.detect import detect as detect
from opticam_dask.api.steps.frames import open_frames as open_frames
from opticam_dask.api.steps.measure import photometry as photometry
from opticam_dask.api.steps.reduce import reduce as reduce
from opticam_dask.api.steps.relative import relative as relative
from opticam_dask.api.steps.stack import stack as stack
from opticam_dask.cluster.connections import connect as connect
from opticam_dask.display.browser.server import browse as browse
from opticam_dask.display.report import write_report as write_report
from opticam_dask.display.stack_files import export_stacks as export_stacks
from opticam_dask.frames.definitions.library import known_instruments as known_instruments
from opticam_dask.frames.definitions.library import load_instrument as load_instrument
from opticam_dask.frames.guessing.sampling import guess_instrument as guess_instrument
from opticam_dask.frames.instruments import OPTICAM_MX as OPTICAM_MX
from opticam_dask.frames.instruments import Instrument as Instrument
from opticam_dask.frames.instruments import generate_instrument_json_template as generate_instrument_json_template
from opticam_dask.frames.samples.fetching import fetch_sample as fetch_sample
from opticam_dask.frames.scanning import FakeReader as FakeReader
from opticam_dask.frames.scanning import FitsReader as FitsReader
from opticam_dask.frames.scanning import scan as scan
from opticam_dask.frames.simulation.simulated_detectors import (
    simulate_calibration_frames as simulate_calibration_frames,
)
from opticam_dask.frames.simulation.simulated_fields import simulate_observations as simulate_observations
from opticam_dask.frames.simulation.synthetic import generate_flats as generate_flats
from opticam_dask.frames.simulation.synthetic import generate_gappy_observations as generate_gappy_observations
from opticam_dask.frames.simulation.synthetic import generate_observations as generate_observations
from opticam_dask.frames.simulation.synthetic import observation_truth as observation_truth
from opticam_dask.lightcurves.curation.marks import marks as marks
from opticam_dask.lightcurves.differential import relative_light_curve as relative_light_curve
from opticam_dask.lightcurves.exports import export_light_curves as export_light_curves
from opticam_dask.lightcurves.field.magnitudes import magnitudes as magnitudes
from opticam_dask.lightcurves.fitting.eclipses import fit_eclipse as fit_eclipse
from opticam_dask.lightcurves.fitting.outcome import fits_in_store as fits_in_store
from opticam_dask.lightcurves.fitting.sinusoids import fit_sinusoid as fit_sinusoid
from opticam_dask.lightcurves.fitting.transits import fit_transit as fit_transit
from opticam_dask.lightcurves.results import differential_light_curves as differential_light_curves
from opticam_dask.lightcurves.results import light_curves as light_curves
from opticam_dask.lightcurves.results import open_observations as open_observations
from opticam_dask.lightcurves.results import open_reduction as open_reduction
from opticam_dask.lightcurves.selection import select as select
from opticam_dask.lightcurves.submission.observer import Observer as Observer
from opticam_dask.lightcurves.submission.observer import read_observer as read_observer
from opticam_dask.lightcurves.submission.writing import write_submission as write_submission
from opticam_dask.methods.backgrounds import BaseBackground as BaseBackground
from opticam_dask.methods.backgrounds import DefaultBackground as DefaultBackground
from opticam_dask.methods.finders import DefaultFinder as DefaultFinder
from opticam_dask.methods.local_backgrounds import BaseLocalBackground as BaseLocalBackground
from opticam_dask.methods.local_backgrounds import DefaultLocalBackground as DefaultLocalBackground
from opticam_dask.methods.photometers import AperturePhotometer as AperturePhotometer
from opticam_dask.methods.photometers import BasePhotometer as BasePhotometer
from opticam_dask.methods.photometers import OptimalPhotometer as OptimalPhotometer
from opticam_dask.methods.psf_photometer import PSFPhotometer as PSFPhotometer
from opticam_dask.passes.camera_matching import match_cameras as match_cameras
from opticam_dask.store.provenance import provenance as provenance

__version__: str
__all__: list[str]
from opticam_dask.lightcurves.curation.marking import mark as mark
from opticam_dask.lightcurves.curation.marking import unmark as unmark
