"""The audit: the unused parameters of each model, in every configuration that builds different layers.

`models` reads the source, `options` is the table of what is varied and why, `cells` creates the configurations, `run`
trains them, `report` prints the result.
"""
