"""The judge by hand: plain torch, ONNX Runtime, LiteRT, ncnn and NumPy, and not one line of `parity`.

For every file it says `right`, `wrong` or `cannot say`, and why. It is blunt on purpose: it compares what the file
computes on the golden inputs with the module in float64, and holds the difference against what the precision costs when
it is applied by hand (`rounding.py`). Where the two are too close to tell, it says so.
"""
