"""From a patch to the bytes of an install: codemods, the edits that they come to, and the plan that writes them."""
