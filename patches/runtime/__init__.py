"""Added by nfpatch: the functions that the hooks in neuralforecast's own files call when several processes train.

`nfpatch status` shows which patches are applied, `nfpatch revert` removes them and this package. Nothing that
neuralforecast saves refers to it.
"""
