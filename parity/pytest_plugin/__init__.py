"""The pytest plugin: hooks, options, fixtures, and what the controller makes of the workers' reports."""
