"""Faults of files: the exported artefact itself, opened, changed as a converter or a disk changes it, and saved again.

An operator gets a `Draft`, an opened copy of the file, and says whether it found anything to change. Values go back on
the file's own grid, or in its own floating point, as a converter would have stored them. `register_fault` takes a
`FileFault` as it takes a fault of the model. In a child process only: the drafts import the formats' own libraries.
"""
