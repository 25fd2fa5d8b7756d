"""`which`: from an error in a log to the patches that fix it."""
