"""``python -m scaling.worker``."""

import sys

from scaling import distributed
from scaling.worker.main import end_soon, main

code = main()
if distributed.count() == 1:  # a group takes leave of one another first
    end_soon(code)
sys.exit(code)
