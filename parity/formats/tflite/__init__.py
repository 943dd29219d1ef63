"""TFLite: made by onnx2tf or litert-torch, run by LiteRT."""
