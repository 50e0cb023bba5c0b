"""Train the baseline that a run's config names: python -m baselines --config config.yaml --out RUN_FOLDER"""

import argparse
from pathlib import Path

from pwm import algorithms, config
from pwm.config import RunConfig
from pwm.errors import exit_on_user_error


@exit_on_user_error
def main() -> None:
    """The command line that all baselines share."""
    parser = argparse.ArgumentParser(prog="python -m baselines", description="Train the baseline a config names.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="folder of the world model, for runs whose settings name one")
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()
    run_config = config.load(RunConfig, args.config)
    algorithms.check(run_config.algorithm, run_config.suite)
    config.validate(algorithms.settings_class(run_config.algorithm), run_config.settings, f"{args.config}: settings")
    from pwm.runs import Run

    algorithms.baseline(run_config.algorithm).train(Run(args.out, run_config, args.tensorboard, model=args.model))


if __name__ == "__main__":
    main()
