"""From an ONNX file to TensorRT engines: classic TensorRT 8.6 to 11 and TensorRT-RTX by one path.

    source + options ─► engines ─► cache ─► child ═► worker ─► builder ─► library
                           │                 (what is right of ═► runs in a process of its own)
                           └─► sidecar       plan: what an engine file is, without TensorRT
    command: `python -m hp_export.tensorrt BUNDLE`      kit: the same on another machine

Precision lies in the ONNX graph; a builder flag never changes it where the library can be told so.
Nothing here needs torch, and only `source` needs onnx.
"""
