"""AWQ, activation-aware weight quantization (arXiv 2306.00978), is written here from scratch.

Read in the order the paper tells it: `awq_impl.salience` (which channels matter),
`awq_impl.search` (how far to scale them up), `awq_impl.clip` (where to cut ranges off), and
`awq_impl.method`, which is the whole. Folding scales into the operation before is
`quantcore.structure.fold`, because it is a fact about the model and not about AWQ.
"""
