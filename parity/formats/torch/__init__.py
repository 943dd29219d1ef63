"""TorchScript and ExportedProgram: made and run by PyTorch."""
