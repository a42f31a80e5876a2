"""``python -m gradgrad`` is ``gradgrad``."""

import sys

from gradgrad.cli import main

if __name__ == "__main__":
    sys.exit(main())
