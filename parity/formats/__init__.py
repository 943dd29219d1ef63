"""Artefact files read and written as data, without the converters and runtimes that they come from."""
