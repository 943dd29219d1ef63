"""Capsules: cells of a run in one sealed file, to be executed where their runtime is and judged where the record is.

`make` packs on the machine that measured, `run` executes on any that has NumPy, psutil, cattrs and the runtime, `judge`
adds what came back to the record. Packing imports what a session imports; the rest imports neither torch nor a
converter nor pytest.
"""
