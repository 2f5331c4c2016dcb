"""Directions that stand for a concept: find them, erase them, swap, scale, add."""

from patchclamp.directions.direction import Direction as Direction
from patchclamp.directions.gradient import GradientDirection as GradientDirection
from patchclamp.directions.leace import LEACE as LEACE
from patchclamp.directions.mean_difference import MeanDifference as MeanDifference
from patchclamp.directions.random import RandomDirection as RandomDirection

__all__ = ["LEACE", "Direction", "GradientDirection", "MeanDifference", "RandomDirection"]
