"""An installed copy of neuralforecast: where it is, what nfpatch keeps of it, and how it is changed all or nothing."""
