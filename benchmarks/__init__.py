"""Speed, measured as ratios within one run: `make bench`."""

from benchmarks.torch_alone import use_stand_ins

use_stand_ins()
