"""Tests run on one thread: their networks are tiny, and threads would only wait for each other."""

import os

# Before torch or MuJoCo is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
