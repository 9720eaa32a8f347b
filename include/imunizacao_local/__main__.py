"""`python -m imunizacao_local`."""

import sys

from imunizacao_local.cli import main

sys.exit(main())
