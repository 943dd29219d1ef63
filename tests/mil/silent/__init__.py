"""Small modules whose conversion by coremltools is silently wrong, as the models of one project."""
