"""From a patch to the bytes of an install: codemods, edits, the state of an install, and plans to change it."""
