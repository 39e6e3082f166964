"""Our models as programs of other runtimes: torch.export and ONNX."""
