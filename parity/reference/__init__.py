"""What the artefacts are measured against: the oracle, and what each precision costs by itself."""
