"""The inputs that models are checked on: golden files, clips, drawn inputs, sequences. Imports core, files, store."""
