"""Post-training quantization to the QDQ form that ST's compiler takes.

`int8.quantize_onnx` is the way through: `settings` reads the config, `prepare` makes the float graph static, `ranges`
chooses what each activation's integers span, `steps` holds the methods by which less is lost, `form` places the Q/DQ
nodes, brings the graph into the form and proves it. `modes` is what `operating_mode` chooses; `search`, `inspection` and
`foreign` stand behind it.
"""
