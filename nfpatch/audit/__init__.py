"""The audit: which parameters of which models no gradient reaches, in every configuration that builds other layers.

`models` reads the source, `options` is the table of what is varied and why, `cells` makes the configurations, `run` has
them trained, `report` shows what came out.
"""
