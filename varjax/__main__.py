"""`python -m varjax`, the same as the console script."""

import sys

from varjax.cli import main

sys.exit(main())
