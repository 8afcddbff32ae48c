"""`python -m failsafe_metrics NAME VALUE [STEP]`."""

import sys

from ._reporter import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
