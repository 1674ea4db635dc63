"""For a process whose clock is CLOCK_OFFSET seconds off: Python imports this when it starts."""

import os
import time

_offset = float(os.environ["CLOCK_OFFSET"])
_time = time.time
time.time = lambda: _time() + _offset
