"""`python3 -m mpool.tools`: the command, where it is not installed."""

import sys

from mpool.tools.main import main

sys.exit(main())
