"""Safe readers of files that somebody else wrote: nothing in them is executed or unpickled. Imports core."""
