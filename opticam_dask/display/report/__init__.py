"""One self-contained HTML page about a reduction: what was reduced, how, and what came out.

``gathering`` reads the store into plain records, ``page`` turns them into text; neither knows the other's business.
"""

from opticam_dask.display.report.writing import REPORT_NAME, write_report

__all__ = ["REPORT_NAME", "write_report"]
