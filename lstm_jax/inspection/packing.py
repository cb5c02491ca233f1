"""Numbers as a page holds them: 8 bits for each value of a trace, and base64 of bytes."""

import base64
import json
from typing import Any

import numpy as np

LEVELS = 255


def packed(a: np.ndarray, dtype: str) -> str:
    """The bytes of an array, little-endian, as base64."""
    return base64.b64encode(a.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def quantized(a_T: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A trace in 8 bits, and the values that 0 and 255 stand for; what is not finite counts as 0.

    Off by half a level at most: 1/510 of the trace's own range.
    """
    a_T = np.nan_to_num(a_T.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = (float(np.float32(value)) for value in (a_T.min(), a_T.max()))
    levels_T = (a_T - low) * (LEVELS / (high - low)) if high > low else np.zeros_like(a_T)
    return np.clip(np.rint(levels_T), 0, LEVELS).astype(np.uint8), low, high


def rounded(value: Any) -> Any:
    """Numbers in four digits, also inside lists; None for what is no number."""
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if np.isfinite(value) else None


def script_json(value: Any) -> str:
    """JSON that stands inside a <script> as it is: ASCII, in which nothing can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
