"""Settings of the measurements of gradients: what a scale's YAML may change under `gradients`.

Light to import: no torch, no simulator.
"""

from typing import Annotated

from pydantic import Field

from pwm.config import Config, Positive, PretrainConfig, Rate, Units, WorldModelConfig


class BallWallConfig(Config):
    """Fits of the ball-wall problem, and ascent through them (`pwm.ball_wall`)."""

    seeds: Positive = 10  # each with angles, weights and fits of its own
    samples: Annotated[int, Field(ge=2)] = 256  # angles a network is fitted to
    units: Annotated[int, Field(ge=8, multiple_of=8)] = 64  # width of the networks' hidden layer and latent
    updates: Positive = 1500  # by Adam, on all samples
    learning_rate: Rate = 3e-3
    starts: Positive = 91  # of the ascent, equally spaced
    ascent_steps: Positive = 500
    ascent_rate: Rate = 0.2  # degrees a step, Adam's


class GradientQualityConfig(Config):
    """Policy gradients through true dynamics and world models (`pwm.gradients`)."""

    seeds: Positive = 5  # each with data, world models, policies, start states and noise of its own
    horizons: Units = (1, 2, 3, 4, 6, 8, 12, 16, 20, 28, 36, 50)
    policies: Positive = 8
    samples: Annotated[int, Field(ge=2)] = 64  # of a policy's gradient, each from a start state of its own
    episodes: Positive = 200  # of the data, as long as the longest horizon
    updates: Positive = 2000  # of a world model
    batch_size: Positive = 128  # windows
    units: Annotated[int, Field(ge=8, multiple_of=8)] = 64  # width of all layers of a world model, its latent included

    def world_model(self, horizon: int) -> PretrainConfig:
        """The training of a world model on windows of so many steps."""
        # Deviation D23: the paper does not give the sizes and data of its experiment. Small networks learn from random
        # actions here, with deviation D6's weight of consistency and falling learning rate.
        return PretrainConfig(
            horizon=horizon,
            updates=self.updates,
            batch_size=self.batch_size,
            consistency_coef=20.0,
            learning_rate=1e-3,
            final_lr=1e-5,
            world_model=WorldModelConfig(encoder=(self.units,), units=(self.units,) * 2, latent_dim=self.units),
        )


class GradientsConfig(Config):
    """Section `gradients` of a scale."""

    ball_wall: BallWallConfig = BallWallConfig()
    gradient_quality: GradientQualityConfig = GradientQualityConfig()
