"""The glimpse sensor: square patches around one place of an image, each twice as wide as the one before, all of n x n numbers.

A place (y, x) is measured from the centre of the image; -1 and 1 are its edges. A patch of scale s is n * 2**s pixels wide, and
each of its numbers is the mean of a square of 2**s x 2**s pixels (Mnih et al. 2014, section 3.1). Beside the image all is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


class Retina:
    """Images, made ready to be looked at.

    The means of all squares are computed once, each scale from the one below by four numbers; a glimpse, of every image at
    every scale, then only picks from them.

    Args:
        images: (N, C, height, width).
        size: n, the numbers of a patch in each direction.
        scales: how many patches there are around a place.

    >>> import torch
    >>> image = torch.arange(16.0).view(1, 1, 4, 4)
    >>> Retina(image, size=2).look(torch.tensor([[0.0, 0.0]])).squeeze()
    tensor([[ 5.,  6.],
            [ 9., 10.]])
    """

    def __init__(self, images: Tensor, size: int, scales: int = 1) -> None:
        self.size, self.scales = size, scales
        self.height, self.width = images.shape[2:]
        self.margin = size * 2 ** (scales - 1) // 2 + 2  # half of the widest patch, and a pixel to lie between
        means = [pad(images, [self.margin] * 4)]
        for scale in range(1, scales):
            step = 2 ** (scale - 1)
            tall = means[-1] + pad(means[-1][:, :, step:], (0, 0, 0, step))
            means.append((tall + pad(tall[..., step:], (0, step))) / 4)
        self.row = means[0].shape[3]
        self.means = torch.stack(means, 1).flatten(3)  # (N, scales, C, pixels): at the upper left corner of each square
        steps = 2 ** torch.arange(scales, device=images.device)
        within = torch.arange(size, device=images.device) * steps[:, None]  # (scales, n)
        self.within = within[:, :, None] * self.row + within[:, None]  # (scales, n, n)
        self.half = size * steps / 2

    def look(self, places: Tensor, between: bool = False) -> Tensor:
        """What is seen at places (N, 2), each y and x from -1 to 1: (N, scales, C, n, n).

        Args:
            places: of each image one; outside of the image they are moved to its edge.
            between: whether patches lie between pixels, and are interpolated linearly: gradients then reach the places. Else
                they are moved to whole pixels.
        """
        sides = places.new_tensor([self.height, self.width])
        centres = (places.clamp(-1, 1) + 1) / 2 * sides + self.margin  # in pixels
        corners = centres.unsqueeze(1) - self.half[:, None].to(centres.dtype)  # (N, scales, 2)
        if not between:
            return self._pick(corners.round().long())
        whole = corners.detach().floor()
        y, x = ((corners - whole)[..., k, None, None, None] for k in (0, 1))
        upper_left = whole.long()
        parts = [
            self._pick(upper_left + upper_left.new_tensor([down, right])) * (y if down else 1 - y) * (x if right else 1 - x)
            for down in (0, 1)
            for right in (0, 1)
        ]
        return parts[0] + parts[1] + parts[2] + parts[3]

    def _pick(self, corners: Tensor) -> Tensor:
        """Patches by their upper left corners (N, scales, 2), whole numbers."""
        first = corners[..., 0] * self.row + corners[..., 1]
        pixels = (first[..., None, None] + self.within).flatten(2)  # (N, scales, n * n)
        channels = self.means.shape[2]
        picked = self.means.gather(3, pixels.unsqueeze(2).expand(-1, -1, channels, -1))
        return picked.unflatten(3, (self.size, self.size))
