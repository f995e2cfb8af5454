"""Inference with trained networks: engines, ONNX export, decoding with a language model, measurement."""
