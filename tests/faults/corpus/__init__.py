"""A corpus of conversion faults that people reported in public, each as a small model and a faulty artefact of it.

    python -m tests.faults.corpus [NAME ...]     what the default profile finds, and what one random input finds

`catalogue` lists them with the thread that each comes from; `models` holds the modules, right and as the fault makes
them; `project` writes a project with all of them and runs `pytest -m parity` there.
"""
