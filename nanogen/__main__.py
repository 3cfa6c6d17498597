"""`python -m nanogen`: the command line."""

import sys

from nanogen_command import main

sys.exit(main())
