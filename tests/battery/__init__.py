"""The silent-pass battery: ways in which a checker says "pass" without having measured anything.

A conformance test for any checker. Each case is data: in every one of them the right answer is "not pass". Each family
also has honest cases, where the right answer is "pass", so that a checker which refuses everything proves nothing.

    python -m tests.battery                                  who passes what, as a table
    python -m tests.battery --checker my_pkg.adapter:Mine    the same for a checker of your own

`protocol` says what an adapter is. The cases (`arrays`, `limits`, `files`, `runs`, `records`) import NumPy and the
standard library, `files` also onnx; none of them imports the checkers.
"""
