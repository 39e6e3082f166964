"""The loss of the tokenizer's picture: a weighted sum of terms, and which of them dominates."""

from collections.abc import Mapping

import torch
from torch import Tensor

from var_pe.models.feature_stages import FeatureStages
from var_pe.tasks.losses.adversarial import Adversary
from var_pe.tasks.losses.last_layer import LastLayer
from var_pe.tasks.losses.perceptual import perceptual_distance
from var_pe.tasks.losses.reconstruction import reconstruction_terms

# added to the norm that the adaptive weight is divided by (VQGAN, equation 7)
SMALL = 1e-6


class PictureLoss:
    """The loss of a reconstruction against its image.

    `weights` are those of l1, l2 and perceptual, `network` is the perceptual term's; the adversary
    has its own weight. Which term rules is logged every `log_every` steps: its share of the sum of the norms
    of all terms' gradients, as weighted, at the decoder's last layer.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        last_layer: LastLayer,
        *,
        network: FeatureStages | None = None,
        adversary: Adversary | None = None,
        log_every: int,
    ) -> None:
        self.weights, self.last_layer = dict(weights), last_layer
        self.network, self.adversary, self.log_every = network, adversary, log_every

    def __call__(
        self, reconstruction_BCHW: Tensor, images_BCHW: Tensor, draw_numbers_B: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, whose gradient goes through the reconstruction, and values to log."""
        reconstruction_BCHW = reconstruction_BCHW.float()
        logged = step % self.log_every == 0
        adversary = self.adversary if self.adversary and self.adversary.plays(step) else None
        if self.network is None and adversary is None:
            terms = reconstruction_terms(reconstruction_BCHW, images_BCHW)
            loss = self.weights["l1"] * terms["l1"] + self.weights["l2"] * terms["l2"]
            return loss, terms | (self._plain_shares(reconstruction_BCHW, images_BCHW) if logged else {})

        # Each term's gradient is taken at the picture, so that the networks are passed once a term.
        picture_BCHW = reconstruction_BCHW.detach().requires_grad_()
        terms = reconstruction_terms(picture_BCHW, images_BCHW)
        if self.network is not None:
            terms["perceptual"] = perceptual_distance(self.network, picture_BCHW, images_BCHW)
        gradients = self._weighted_gradients(terms, picture_BCHW)
        loss = weighted_sum(terms, self.weights)
        values = dict(terms)

        # The adversarial term, whose weight may follow from the other terms' gradients
        weight: Tensor | float = 0.0
        if adversary is not None:
            term = adversary.term(picture_BCHW, images_BCHW, draw_numbers_B)
            gradients["adversarial"] = gradient_at(picture_BCHW, term)
            weight = adversary.weight(step)
            values["adversarial"] = term

        adaptive = adversary is not None and adversary.config.adaptive_limit > 0
        if adaptive or logged:
            at_layer = self.last_layer.gradients(gradients)
            if adversary is not None and adaptive:
                weight = weight * adaptive_weight(at_layer, adversary.config.adaptive_limit)
            if adversary is not None:
                at_layer["adversarial"] = weight * at_layer["adversarial"]
            if logged:
                values |= shares(at_layer)

        if adversary is not None:
            gradients["adversarial"] = weight * gradients["adversarial"]
            loss = loss + weight * values["adversarial"]
            values["adversarial/weight"] = torch.as_tensor(weight, device=loss.device)

        # The value is the loss; the gradient at the picture is the sum of the terms'.
        gradient_BCHW = torch.stack(list(gradients.values())).sum(0)
        carrier = (reconstruction_BCHW * gradient_BCHW).sum()
        return loss.detach() + carrier - carrier.detach(), values

    def _weighted_gradients(self, terms: Mapping[str, Tensor], picture_BCHW: Tensor) -> dict[str, Tensor]:
        return {name: self.weights[name] * gradient_at(picture_BCHW, term) for name, term in terms.items()}

    def _plain_shares(self, reconstruction_BCHW: Tensor, images_BCHW: Tensor) -> dict[str, Tensor]:
        """The shares of the gradients where there are no other terms; the loss itself is not affected."""
        picture_BCHW = reconstruction_BCHW.detach().requires_grad_()
        terms = reconstruction_terms(picture_BCHW, images_BCHW)
        return shares(self.last_layer.gradients(self._weighted_gradients(terms, picture_BCHW)))


def gradient_at(picture_BCHW: Tensor, term: Tensor) -> Tensor:
    (gradient_BCHW,) = torch.autograd.grad(term, picture_BCHW)
    return gradient_BCHW


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def adaptive_weight(at_layer: Mapping[str, Tensor], limit: float) -> Tensor:
    """The norm of the other terms' gradient over the adversarial one's, at most `limit` (VQGAN, eq. 7)."""
    others = torch.stack([gradient for name, gradient in at_layer.items() if name != "adversarial"]).sum(0)
    return (others.norm() / (at_layer["adversarial"].norm() + SMALL)).clamp(max=limit)


def shares(at_layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each gradient's norm over the sum of all norms."""
    norms = torch.stack([gradient.norm() for gradient in at_layer.values()])
    of_all = norms / norms.sum().clamp(min=1e-30)
    return {f"gradient_share/{name}": share for name, share in zip(at_layer, of_all, strict=True)}
