"""What a run or a sweep needs and costs, before any weight is loaded: ``hydratune plan``.

Read in this order: ``structure`` (the model without memory, its adapter attached), ``row_lengths``
(the rows as tokens), ``step_cost`` (what a training step keeps for each token, measured on a small
model of the same kind), ``memory`` (all parts together, for this machine and for others),
``duration`` (seconds and money), ``licence``, ``advice`` (warnings and a first sweep), ``sweep``
(trials and packs), ``plan`` (all of it), ``terminal`` and ``page`` (how it is shown).
"""
