"""LeGrad and AttnLRP: what looks inside a vision transformer.

Written anew from the papers (Bousselham et al. 2024; Achtibat et al. 2024), for
torchvision's ``VisionTransformer``. Its forward pass is said once, attention matrices
in the open, and LRP's rules are said as changes of this pass that leave its values and
change its gradients: the relevance of anything is then its value times its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.saliency.methods import Photograph

# The strength of the gamma rule, of convolutions and of linear layers: the middle of
# the grids that the authors' own example tries on vision transformers; none is theirs.
GAMMA_CONVOLUTION, GAMMA_LINEAR = 0.25, 0.05
Layer = Callable[[nn.Module, Tensor], Tensor]


class Rules(NamedTuple):
    """How a pass computes what LRP has rules for.

    Args:
        affine: A linear layer or convolution.
        norm: A layer norm.
        activation: An activation, GELU or ReLU.
        product: The product of two matrices, both of them of the input.
    """

    affine: Layer
    norm: Layer
    activation: Layer
    product: Callable[[Tensor, Tensor], Tensor]


class Pass(NamedTuple):
    """What a pass came to.

    Args:
        logits: Of shape (B, C).
        attention: Of each block, (B, heads, tokens, tokens).
        tokens: After each block, (B, tokens, width).
    """

    logits: Tensor
    attention: list[Tensor]
    tokens: list[Tensor]


def legrad(photo: Photograph) -> Tensor:
    """Bousselham et al.: positive gradients of each block's own score, 8 x 8 or so."""
    net = photo.model.modules_of_network
    passed = forward(net, photo.image, PLAIN)
    _count(photo)
    total = torch.zeros(())
    for attention, tokens in zip(passed.attention, passed.tokens, strict=True):
        score = head(net, tokens, PLAIN)[0, photo.target]
        total = total + attention_gradient(score, attention)
    side = round((len(total) - 1) ** 0.5)
    grid = (total[1:] / len(passed.tokens)).view(1, 1, side, side)
    size = tuple(photo.image.shape[2:])
    return F.interpolate(grid, size, mode="bilinear")[0, 0]


def attention_gradient(score: Tensor, attention: Tensor) -> Tensor:
    """The positive part of d score / d attention, mean over heads and queries, (T,)."""
    (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
    return gradient.clamp_min(0).mean(dim=(0, 1, 2))


def attn_lrp(photo: Photograph) -> Tensor:
    """Achtibat et al.: the relevance of each pixel."""
    image = photo.image.clone().requires_grad_()
    logits = forward(photo.model.modules_of_network, image, LRP).logits
    _count(photo)
    (gradient,) = torch.autograd.grad(logits[0, photo.target], image)
    return (image * gradient)[0].sum(dim=0).detach()


def forward(net: nn.Module, image: Tensor, rules: Rules) -> Pass:
    """A torchvision VisionTransformer's forward pass in eval mode."""
    x = image
    for layer in net.conv_proj.modules():
        x = _stem(layer, x, rules)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([net.class_token.expand(len(x), -1, -1), x], dim=1)
    x = x + net.encoder.pos_embedding
    attention, tokens = [], []
    for block in net.encoder.layers:
        mixed, weights = attend(block.self_attention, rules.norm(block.ln_1, x), rules)
        x = x + mixed
        inner = rules.affine(block.mlp[0], rules.norm(block.ln_2, x))
        x = x + rules.affine(block.mlp[3], rules.activation(block.mlp[1], inner))
        attention.append(weights)
        tokens.append(x)
    return Pass(head(net, x, rules), attention, tokens)


def head(net: nn.Module, tokens: Tensor, rules: Rules) -> Tensor:
    """Logits of the class token."""
    return rules.affine(net.heads.head, rules.norm(net.encoder.ln, tokens)[:, 0])


def attend(
    attention: nn.MultiheadAttention, x: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Self-attention: the new tokens (B, T, D) and the weights (B, heads, T, T)."""
    query, key, value = (
        rules.affine(layer, x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for layer in _projections(attention)
    )
    scores = rules.product(query, key.transpose(2, 3)) / math.sqrt(query.shape[-1])
    weights = scores.softmax(dim=-1)
    mixed = rules.product(weights, value).transpose(1, 2).flatten(2)
    return rules.affine(attention.out_proj, mixed), weights


def _projections(attention: nn.MultiheadAttention) -> list[nn.Linear]:
    """Query, key and value as the three layers that torch keeps in one matrix."""
    width = attention.embed_dim
    layers = []
    weights = attention.in_proj_weight.detach().split(width)
    biases = attention.in_proj_bias.detach().split(width)
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.utils.skip_init(nn.Linear, width, width)
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(layer)
    return layers


def _stem(layer: nn.Module, x: Tensor, rules: Rules) -> Tensor:
    """A layer of the stem; what only holds others changes nothing.

    Batch norm in eval mode is linear: its gradient is already the rule.
    """
    if isinstance(layer, nn.Conv2d):
        return rules.affine(layer, x)
    if isinstance(layer, nn.BatchNorm2d):
        normed: Tensor = layer(x)
        return normed
    return rules.activation(layer, x) if isinstance(layer, nn.ReLU) else x


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = layer(x)
    return made


def gamma_rule(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer, its gradient that of the generalised gamma rule.

    What supports the output's sign counts 1 + gamma times; gamma 0 would be the
    epsilon rule.
    """
    convolution = isinstance(layer, nn.Conv2d)
    gamma = GAMMA_CONVOLUTION if convolution else GAMMA_LINEAR

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        if not isinstance(layer, nn.Conv2d):
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, layer.stride, layer.padding)

    out = _call(layer, x)
    weight = layer.weight.detach()
    shape = (-1, 1, 1) if convolution else (-1,)
    bias = 0.0 if layer.bias is None else layer.bias.detach().view(shape)
    high, low = x.clamp_min(0), x.clamp_max(0)
    plain = linear(x, weight) + bias
    for_it = linear(high, weight.clamp_min(0)) + linear(low, weight.clamp_max(0))
    against = linear(high, weight.clamp_max(0)) + linear(low, weight.clamp_min(0))
    boosted = plain + gamma * torch.where(out > 0, for_it, against)
    return boosted * (out / _away_from_zero(boosted)).detach()


def identity_rule(activation: nn.Module, x: Tensor) -> Tensor:
    """An activation as a product with a constant: relevance passes unchanged."""
    return x * (activation(x) / _away_from_zero(x)).detach()


def norm_rule(norm: nn.Module, x: Tensor) -> Tensor:
    """A layer norm whose deviation is a constant: a linear layer."""
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
    return centred / deviation.detach() * norm.weight + norm.bias


def product_rule(a: Tensor, b: Tensor) -> Tensor:
    """A product whose factors get half of the relevance each."""
    product = a @ b
    return product / 2 + (product / 2).detach()


def _away_from_zero(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x + 1e-9, x - 1e-9)


PLAIN = Rules(_call, _call, _call, torch.matmul)
LRP = Rules(gamma_rule, norm_rule, identity_rule, product_rule)


def _count(photo: Photograph) -> None:
    """One pass forwards and one backwards: those of LeGrad's blocks add up to one."""
    photo.model.n_forward += 1
    photo.model.n_backward += 1
