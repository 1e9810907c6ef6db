"""From a checkpoint to a verified bundle (needs torch and onnx).

    strip ─► graph ─► to_onnx ─► precision ─► verify ─► write

One file per arrow; `cli` is the command hp-export.
"""
