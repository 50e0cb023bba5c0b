"""Train the baseline that a run's config names: python -m baselines --config config.yaml --out RUN_FOLDER

With several configs and folders, the runs of one algorithm together, in one process.
"""

import argparse
from pathlib import Path

from pwm import algorithms, config
from pwm.config import RunConfig
from pwm.errors import UserError, exit_on_user_error


@exit_on_user_error
def main() -> None:
    """The command line that all baselines share."""
    parser = argparse.ArgumentParser(prog="python -m baselines", description="Train the baseline a config names.")
    parser.add_argument("--config", type=Path, required=True, nargs="+")
    parser.add_argument("--out", type=Path, required=True, nargs="+")
    parser.add_argument("--model", type=Path, help="folder of the world model, for runs whose settings name one")
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()
    if len(args.config) != len(args.out):
        raise UserError(f"--config names {len(args.config)} files, --out {len(args.out)} folders; give one for each")
    run_configs = [config.load(RunConfig, path) for path in args.config]
    for path, run_config in zip(args.config, run_configs, strict=True):
        algorithms.check(run_config.algorithm, run_config.suite)
        config.validate(algorithms.settings_class(run_config.algorithm), run_config.settings, f"{path}: settings")
    name, *others = dict.fromkeys(run_config.algorithm for run_config in run_configs)
    together = getattr(algorithms.baseline(name), "train_together", None)
    if others or (len(run_configs) > 1 and together is None):
        raise UserError(f"--config: runs of {', '.join([name, *others])} are not trained together; give one at a time")
    from pwm.runs import Run

    often = 60.0 * len(run_configs)  # the state of many is large
    settings = {"tensorboard": args.tensorboard, "save_every": often, "model": args.model}
    runs = [Run(*which, **settings) for which in zip(args.out, run_configs, strict=True)]
    if len(runs) > 1:
        together(runs)
    else:
        algorithms.baseline(name).train(runs[0])


if __name__ == "__main__":
    main()
