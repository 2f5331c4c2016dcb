"""A fuzz of the whole public surface: nothing stale, nothing wrong, nothing silent, no raw error.

Two halves, each of small files:

**Right calls against an independent oracle.** ``places`` says in a table of its own which module of each tiny family carries
which site. ``formulas`` has every edit, gate and position twice: as the user writes it, and as the formula that the
documentation gives. ``oracle`` runs one prompt alone, without cache, with plain hooks in float64, and generates by computing the
whole text anew for each token. ``readings`` has every read twice, too. ``draws`` makes random prompts (lists of ids, ragged,
tensors with masks, duplicates), edits and reads of them. The tests cross them: ``test_calls`` (run, record, patch, generate,
editing), ``test_sweeps`` (each strategy, any budget, checkpoints that hold other work) and ``test_kept`` (saved, opened, repeated).

**Any value of any parameter.** ``table`` has one ordinary, quick call of every public function; a new function needs a line
there. ``values`` draws values of every class: zero, negative, huge, NaN, of a wrong type, shape or dtype, ... Each call must
refuse the value by name, or give a result that can be right: no error of Python's or of another library, no silent NaN, no work
without end. The tables hold two clearly
different values of every parameter: in ``test_arguments`` one that makes no difference is ignored, unless it is on the short list of
``inert`` ones with the reason.

The short form draws the same few examples everywhere. The full form (``make test-all``) draws one of every class for every
parameter, some ten thousand calls (ten of each with ``PATCHCLAMP_FUZZ_DRAWS=10``), from a seed that a failure prints (``PATCHCLAMP_FUZZ_SEED``).
"""
