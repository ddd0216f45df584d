"""Vector quantization: every vector becomes the nearest of a codebook, which follows the vectors by moving averages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DEAD = 0.03
"""A code is dead if it takes less than this share of what each would take if all were taken alike."""
SMALL = 1e-5


class Quantizer(nn.Module):
    """The codebook of van den Oord et al. 2017 (arXiv:1711.00937), learned as in its appendix A.1.

    `count` [K] and `total` [K, D] are moving averages, a training step each, of how many vectors a code takes and of
    their sum; the code is their quotient. Both are float buffers, so the ranks of a distributed training average them
    and all have one codebook. A dead code begins anew at a vector of the batch (Dhariwal et al. 2020,
    arXiv:2005.00341, section 3.1), of several ranks at the mean of one vector of each.
    """

    count: Tensor
    total: Tensor

    def __init__(self, codes: int, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("count", torch.zeros(codes))
        self.register_buffer("total", torch.randn(codes, size))

    @property
    def codebook(self) -> Tensor:
        """The codes, [K, D]."""
        return self.total / self.count.clamp(min=SMALL)[:, None]

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors [..., D] → the numbers of their nearest codes, [...]."""
        flat, codebook = vectors.detach().flatten(0, -2).float(), self.codebook
        with torch.autocast(flat.device.type, enabled=False):
            # ‖v − e‖² without ‖v‖², which is the same for all codes
            scores = torch.addmm(codebook.square().sum(1), flat, codebook.T, alpha=-2.0)
        return scores.argmin(1).view(vectors.shape[:-1])

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors [N, S, D] → their codes [N, S, D], the numbers of these [N, S], and the commitment, a scalar.

        The gradient of the codes goes straight to the vectors (equation 3); the commitment is the last term of that
        equation, as a mean over numbers. In training mode the codebook follows the vectors.
        """
        vectors = vectors.float()
        if self.training:
            self._revive(vectors.detach().flatten(0, 1))
        chosen = self.nearest(vectors)
        codes = self.codebook[chosen]
        if self.training:
            self._follow(vectors.detach().flatten(0, 1), chosen.flatten())
        commitment = (vectors - codes).square().mean()
        return vectors + (codes - vectors).detach(), chosen, commitment

    @torch.no_grad()
    def _follow(self, vectors: Tensor, chosen: Tensor) -> None:
        """The moving averages after these vectors [M, D]."""
        count = torch.zeros_like(self.count).index_add_(0, chosen, torch.ones_like(vectors[:, 0]))
        total = torch.zeros_like(self.total).index_add_(0, chosen, vectors)
        self.count.lerp_(count, 1.0 - self.decay)
        self.total.lerp_(total, 1.0 - self.decay)

    @torch.no_grad()
    def _revive(self, vectors: Tensor) -> None:
        """Dead codes begin anew at random vectors [M, D], with twice the weight at which they would be dead again."""
        least = DEAD * len(vectors) / len(self.count)
        dead = self.count < least
        drawn = vectors[torch.randint(len(vectors), self.count.shape, device=vectors.device)]
        self.count.copy_(torch.where(dead, 2.0 * least, self.count))
        self.total.copy_(torch.where(dead[:, None], 2.0 * least * drawn, self.total))

    def use(self) -> tuple[Tensor, Tensor]:
        """The perplexity of the codes, e to their entropy, and the share of codes that are not nearly dead."""
        share = self.count / self.count.sum().clamp(min=SMALL)
        entropy = -(share * share.clamp(min=1e-12).log()).sum()
        return entropy.exp(), (share * len(share) > 2.0 * DEAD).float().mean()
