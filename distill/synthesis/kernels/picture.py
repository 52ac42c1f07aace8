"""From supersampled light to a picture: resolve over the background, tone, sensor noise."""

from __future__ import annotations

import numpy as np

from distill.synthesis.kernels import kernel


@kernel
def mean_luminance(image, x0, y0, x1, y1):
    """Mean luminance of the covered pixels of a box of image (S, S, 4), for the exposure."""
    total = 0.0
    count = 0
    for y in range(y0, y1, 2):
        for x in range(x0, x1, 2):
            if image[y, x, 3] > 0.5:
                total += 0.3 * image[y, x, 0] + 0.6 * image[y, x, 1] + 0.1 * image[y, x, 2]
                count += 1
    return total / count if count else 0.3


@kernel
def resolve(image, background, gain, background_gain, out):
    """Average 5 x 5 supersampled pixels into 4 x 4 pixels over the background, with a soft shoulder for highlights.

    image (1.25 n, 1.25 n, 4) premultiplied, background and out (n, n, 3), all linear.
    """
    n = out.shape[0]
    one, knee = np.float32(1), np.float32(0.7)
    for y in range(n):
        # a pixel covers 1.25 source pixels: two taps an axis
        ys = (y // 4) * 5 + (y & 3)
        wy1 = np.float32(0.2 + 0.2 * (y & 3))
        wy0 = one - wy1
        for x in range(n):
            xs = (x // 4) * 5 + (x & 3)
            wx1 = np.float32(0.2 + 0.2 * (x & 3))
            wx0 = one - wx1
            a, b, c, d = wx0 * wy0, wx1 * wy0, wx0 * wy1, wx1 * wy1
            cover = (
                a * image[ys, xs, 3]
                + b * image[ys, xs + 1, 3]
                + c * image[ys + 1, xs, 3]
                + d * image[ys + 1, xs + 1, 3]
            )
            through = background_gain * (one - min(one, cover))
            for k in range(3):
                v = (
                    a * image[ys, xs, k]
                    + b * image[ys, xs + 1, k]
                    + c * image[ys + 1, xs, k]
                    + d * image[ys + 1, xs + 1, k]
                )
                v = v * gain + background[y, x, k] * through
                if v > knee:  # approaches 1
                    e = (v - knee) * np.float32(2)
                    v = knee + np.float32(0.3) * e / (one + e)
                out[y, x, k] = v


@kernel
def tone(picture, curve, gain, saturation, tint, vignette):
    """In place, (n, n, 3) linear to display: curve over 0..1, gain and tint of the channels, saturation, vignette."""
    n, m = picture.shape[0], np.float32(curve.shape[0] - 1)
    f0, f1 = np.float32(0), np.float32(1)
    for i in range(n):
        dy = np.float32(i + 0.5) / n - np.float32(0.5)
        for j in range(n):
            r = curve[int(min(f1, max(f0, picture[i, j, 0])) * m)] * gain[0]
            g = curve[int(min(f1, max(f0, picture[i, j, 1])) * m)] * gain[1]
            b = curve[int(min(f1, max(f0, picture[i, j, 2])) * m)] * gain[2]
            y = np.float32(0.3) * r + np.float32(0.55) * g + np.float32(0.15) * b
            dx = np.float32(j + 0.5) / n - np.float32(0.5)
            v = f1 - vignette * (dx * dx + dy * dy)
            picture[i, j, 0] = min(f1, max(f0, (y + (r - y) * saturation) * tint[0] * v))
            picture[i, j, 1] = min(f1, max(f0, (y + (g - y) * saturation) * tint[1] * v))
            picture[i, j, 2] = min(f1, max(f0, (y + (b - y) * saturation) * tint[2] * v))


@kernel
def quantise(picture, noise, offset, amplitude, out):
    """out uint8 = 255 * (picture + amplitude * noise); the flat table of noise is read from offset on, and again."""
    source, target = picture.reshape(-1), out.reshape(-1)
    for i in range(source.size):
        v = source[i] + amplitude * noise[(offset + i) % noise.size]
        target[i] = np.uint8(min(np.float32(1.0), max(np.float32(0.0), v)) * np.float32(255) + np.float32(0.5))
