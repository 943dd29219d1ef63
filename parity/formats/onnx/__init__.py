"""ONNX: exported by torch.onnx, run by ONNX Runtime."""
