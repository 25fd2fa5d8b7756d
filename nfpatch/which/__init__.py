"""From an error to its patch: what a log says, which patches of the catalog fix that, and how it is printed."""
