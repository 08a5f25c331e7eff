"""``python -m opticam_dask.cli``: what job scripts call."""

import sys

from opticam_dask.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
