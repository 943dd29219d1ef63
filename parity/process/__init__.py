"""Child processes: how they are started, capped, timed out and talked to. Imports core and store."""
