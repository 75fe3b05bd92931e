"""Students of many nodes trained as one batch, each as if it were alone."""
