"""One install of neuralforecast: where it is, the state that nfpatch keeps of it, and atomic changes of its files."""
