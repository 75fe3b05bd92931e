"""What turns a student into a smaller one.

`plan` is imported everywhere, on devices too, so nothing here imports torch or onnx:
take the compressors from their own modules.
"""

from fedstill.common.compressors.plan import CompressionPlan, list_settings, make_plan, without_compression

__all__ = ["CompressionPlan", "list_settings", "make_plan", "without_compression"]
