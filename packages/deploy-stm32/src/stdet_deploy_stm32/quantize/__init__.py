"""Post-training quantization to the QDQ form that ST's compiler takes.

`recipe.quantize_onnx` is the way through: `options` reads the config, `prepare` makes the float graph static, `calibrate`
streams the images and asks an observer of `ranges` for each tensor's range, `insert` lets onnxruntime place the Q/DQ
nodes, `borders` types inputs and outputs, `normalise` and `form` make and prove the form.
"""
