"""What one process makes of a plan: files, references, runtimes, proofs; each made once and kept."""
