"""`python -m kinema.cli`, which torchrun can start in several processes."""

import sys

from kinema.cli.main import main

sys.exit(main())
