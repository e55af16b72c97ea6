"""Convolution and pooling written out, as measures of the layers that do the same faster."""

import math

import numpy as np


def same_windows(x: np.ndarray, size: tuple[int, int], stride: int, fill: float = 0.0) -> np.ndarray:
    """Returns `[batch, rows, columns, *size, channels]`: what lies under the window at each place.

    Padded as TensorFlow documents its SAME: ceil(side / stride) places, the padding's odd row or column at the end.
    """
    places = [math.ceil(side / stride) for side in x.shape[1:3]]
    padding = [max((n - 1) * stride + k - side, 0) for n, k, side in zip(places, size, x.shape[1:3], strict=True)]
    x = np.pad(x, [(0, 0), *((p // 2, p - p // 2) for p in padding), (0, 0)], constant_values=fill)
    out = np.empty((len(x), *places, *size, x.shape[-1]), x.dtype)
    for i, j in np.ndindex(*places):
        out[:, i, j] = x[:, i * stride : i * stride + size[0], j * stride : j * stride + size[1]]
    return out


def standardised_conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Returns the convolution by (kernel - mean) / (standard deviation + 1e-5), SAME padding."""
    columns = kernel.reshape(-1, kernel.shape[-1])
    columns = (columns - columns.mean(0)) / (columns.std(0) + 1e-5)
    return np.tensordot(same_windows(x, kernel.shape[:2], stride), columns.reshape(kernel.shape), 3)


def group_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, groups: int = 32) -> np.ndarray:
    """Returns each group of neighbouring channels normalised over the image, scaled and shifted."""
    parts = []
    for part in np.split(x, groups, axis=-1):
        mean, variance = part.mean((1, 2, 3), keepdims=True), part.var((1, 2, 3), keepdims=True)
        parts.append((part - mean) / np.sqrt(variance + 1e-6))
    return np.concatenate(parts, axis=-1) * scale + bias
