"""PWM: policy learning with multi-task world models, replicated as a benchmark suite.

Importing the package is cheap: torch, mujoco and the plotting libraries are imported only by the modules that use them.
"""
