"""``python -m vmfence``: the same as the command."""

import sys

from vmfence.cli.entry import main

sys.exit(main())
