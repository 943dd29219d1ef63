"""Core AI: made and run by Apple's coreai packages, in an environment of their own."""
