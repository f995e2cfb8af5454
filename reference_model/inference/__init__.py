"""The trained network in use: engines, ONNX, decoding with a language model, measurement."""
