"""MT30: scores by task and algorithm, single seeds, means and published scores."""

import pandas as pd
from matplotlib.figure import Figure

from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.figures._per_task import draw_suite
from workflows.results import Results, read_results


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    return draw_suite(results, "mt30")


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
