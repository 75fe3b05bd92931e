"""What turns a trained student into a smaller one."""

from common.compressors.static_int8 import fold_constants, quantise_static

__all__ = ["fold_constants", "quantise_static"]
