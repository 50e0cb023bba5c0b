"""Tests run on one thread: their networks are tiny, and threads would only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch or MuJoCo is imported; commands that tests start inherit it
