"""Edits as weights: a checkpoint that needs no hooks, and control vectors for llama.cpp."""

from patchclamp.baking.bake import baked as baked
from patchclamp.baking.bake import export as export
from patchclamp.baking.control_vector import control_vector as control_vector
from patchclamp.baking.control_vector import export_control_vector as export_control_vector
