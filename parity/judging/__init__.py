"""From arrays to a verdict: metrics, limits, noise floors, checks, gate, baseline. Pure; imports core."""
