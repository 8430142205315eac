"""One evaluator for the torch model, the float ONNX and the int8 ONNX."""
