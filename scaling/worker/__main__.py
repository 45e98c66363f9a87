"""``python -m scaling.worker``."""

import sys

from scaling.worker.main import main

sys.exit(main())
