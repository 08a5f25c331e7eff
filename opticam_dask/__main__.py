"""``python -m opticam_dask``: the command line where the program ``opticam-dask`` is not on the path."""

import sys

from opticam_dask.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
