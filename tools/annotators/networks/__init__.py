"""Networks that annotators ask, in the layouts of their published weights."""
