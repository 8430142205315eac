"""ONNX graphs as this package sees and changes them: the view, surgery, sessions, gradients, what watches tensors."""
