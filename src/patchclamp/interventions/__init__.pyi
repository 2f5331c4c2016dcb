# The door of the engine: what other packages use of it, by what it is for.
# ruff: noqa: I001

# Edits: what is done to a model. Operations are what they do, sources where their values come from.
from . import operations as operations
from .edits import Add as Add
from .edits import Call as Call
from .edits import Clamp as Clamp
from .edit import Edit as Edit
from .edit import Edits as Edits
from .edits import MeanAblate as MeanAblate
from .edits import Noise as Noise
from .edit import Origin as Origin
from .edits import Patch as Patch
from .edits import ProjectOut as ProjectOut
from .edits import RankOne as RankOne
from .edits import Reflect as Reflect
from .edits import Rotate as Rotate
from .edits import Scale as Scale
from .edits import Splice as Splice
from .edits import Zero as Zero
from .edit import as_edits as as_edits
from .edits import source as source
from .operations import Apply as Apply
from .operations import Operation as Operation
from .operations import Put as Put
from .sources import Source as Source
from .sources import Subspace as Subspace
from .gates import Along as Along
from .gates import Gate as Gate
from .gates import Nearest as Nearest
from .gates import NearestCode as NearestCode
from .gates import Norm as Norm
from .values import rows as rows
from .saving import load_edits as load_edits
from .saving import save_edits as save_edits

# Positions: where it is done.
from . import positions as positions
from .positions import UNSAID as UNSAID
from .positions import At as At
from .positions import Token as Token
from .positions import Unsaid as Unsaid
from .positions import per_prompt as per_prompt
from .positions import token as token

# Reads: what is measured.
from .reads import CLEAN as CLEAN
from .reads import CORRUPTED as CORRUPTED
from .reads import KL as KL
from .reads import Activation as Activation
from .reads import Function as Function
from .reads import LogOdds as LogOdds
from .reads import LogitDifference as LogitDifference
from .reads import Logits as Logits
from .reads import Loss as Loss
from .reads import Probability as Probability
from .reads import Rank as Rank
from .reads import Read as Read
from .reads import Tokens as Tokens
from .reads import TopK as TopK
from .reads import as_reads as as_reads

# The public functions, and what they return.
from .running import Run as Run
from .running import run as run
from .running import top as top
from .recording import record as record
from .result_record import provenance as provenance
from .results import Activations as Activations
from .results import to_numpy as to_numpy
from .generation import Generation as Generation
from .generation import generate as generate
from .stepping import editing as editing
from .sweeping import plan as plan
from .sweeping import sweep as sweep
from .grid import Grid as Grid
from .planned_result import PlannedResult as PlannedResult
from .planning import Plan as Plan
from .patching import Align as Align
from .patching import Pair as Pair
from .patching import patch as patch
from .patching import read_source as read_source

# Cells: prompts under edits, planned together and run; see docs/sweeps.md.
from .actions import Action as Action
from .actions import edited_sites as edited_sites
from .sweep_task import Cell as Cell
from .sweep_task import SweepTask as SweepTask
from .sweep_task import PromptRun as PromptRun
from .sweep_task import widen as widen
from .sweeping import make_lines as make_lines
from .cost import DEFAULT_BUDGET as DEFAULT_BUDGET
from .options import RunOptions as RunOptions
from .part_files import PartFiles as PartFiles
from .planning import Schedule as Schedule
from .planning import schedule as schedule
from .execute import Outcome as Outcome
from .execute import run_cells as run_cells
from .parts import Part as Part
from .parts import PartResult as PartResult
from .part_runner import run_part as run_part

# One forward pass, with edits and with what is seen on the way; and the end of one, from some layer on.
from .passes import Row as Row
from .passes import Sink as Sink
from .passes import forward as forward
from .passes import last_logits as last_logits
from .passes import logits_of as logits_of
from .passes import outputs_at as outputs_at
from .passes import through_head as through_head
from .suffix_forward import Tail as Tail
from .suffix_forward import resume as resume

# Recording: many prompts in batches, and the values that edits take from other runs.
from .recording import BATCH_TOKENS as BATCH_TOKENS
from .recording import batches as batches
from .recording import may_share as may_share
from .recording import place as place
from .recording import record_source as record_source

# Models as they are opened, and with other weights.
from .verification import verify as verify
from .checkpoint import Agreement as Agreement
from .checkpoint import agreement as agreement
from .checkpoint import check_folder as check_folder
from .checkpoint import check_format as check_format
from .checkpoint import with_parameters as with_parameters
from .checkpoint import write_checkpoint as write_checkpoint
