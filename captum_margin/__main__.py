"""``python -m captum_margin``: the command line where its script is not on the path."""

import sys

from captum_margin.cli import main

if __name__ == "__main__":
    sys.exit(main())
