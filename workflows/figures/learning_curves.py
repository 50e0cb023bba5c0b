"""Learning curves, by task and of a suite's tasks together, over environment steps, and where offline over updates."""

import pandas as pd
from matplotlib.figure import Figure

from pwm.errors import exit_on_user_error
from workflows.figures import style
from workflows.figures._curves import draw_over
from workflows.results import Results, read_results


def draw(results: Results) -> tuple[Figure, pd.DataFrame]:
    """Draw the figure; returns it and the data drawn."""
    return draw_over(results, ("env_steps", "updates"))


@exit_on_user_error
def main() -> None:
    """Draw from the command line."""
    results = read_results(__file__, __doc__)
    style.save(*draw(results), results)


if __name__ == "__main__":
    main()
