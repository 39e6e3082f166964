"""Next-scale transformer: predicts each grid of tokens from all coarser ones, in one pass per level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  # pipelines look for it in this module
from torch import Tensor, nn

from var_pe.encodings import build_encoding, settled
from var_pe.encodings.machinery.bands import Remap, remapped
from var_pe.encodings.machinery.codes import standard_deviation
from var_pe.encodings.machinery.level import LevelEmbedding, LevelKind
from var_pe.models.adaln import AdaLNBlock, modulated
from var_pe.models.attention import PositionContext, all_levels, first_seen
from var_pe.models.blocks import Blocks
from var_pe.models.choice import (
    Choice,
    check_choice,
    check_finite,
    draw,
    given_logits,
    guidance_per_level,
    gumbel_mix,
    kept_logits,
    scale_guidance_per_level,
    temperature_per_level,
)
from var_pe.models.initialisation import initialise
from var_pe.models.kernels import kernel_for
from var_pe.models.keys import By, key_choice
from var_pe.models.layers import LevelCache
from var_pe.models.numbers import keys_of, token_keys, uniform_pairs
from var_pe.models.resizable import Resizable
from var_pe.models.scale_guidance import guided_by_scale, prior_of
from var_pe.models.tokenizer import DEFAULTS as TOKENIZER_DEFAULTS
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Grid, Positions, Pyramid, sides_of
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import (
    Doc,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    ShareBelowOne,
    section,
)
from var_pe.settings.fields import check_choice as check_choice_of


@section
class GeneratorConfig:
    encoding: Annotated[
        str,
        Doc("position encoding, one line: learned, sinusoidal, mixed(learned=0.7, sinusoidal=0.3) ..."),
    ] = "learned"
    level_embedding: Annotated[LevelKind, Doc("embedding of the level that is added to its tokens")] = (
        "learned"
    )
    dim: Annotated[Positive, Doc("width")] = 192
    depth: Annotated[Positive, Doc("blocks")] = 6
    num_heads: Annotated[Positive, Doc("attention heads")] = 6
    mlp_ratio: Annotated[
        PositiveFloat, Doc("hidden width of the feed-forward layers, as a multiple of dim")
    ] = 4.0
    drop_path: Annotated[
        ShareBelowOne,
        Doc("stochastic depth of the last block, growing linearly from 0; VAR: 0.1 * depth / 24"),
    ] = 0.0
    dropout: Annotated[ShareBelowOne, Doc("dropout in attention and feed-forward layers")] = 0.0
    qk_norm: Annotated[bool, Doc("cosine attention with a learned temperature per head")] = True
    shared_adaln: Annotated[
        bool, Doc("one modulation for all blocks plus an offset each (VAR-d36) instead of one each")
    ] = False
    levels_before: Annotated[
        Positive | None,
        Doc(
            "number of coarser levels, the nearest, that a level attends to besides itself; 1: as in "
            "MVAR; null: all"
        ),
    ] = None
    most_keys: Annotated[
        Positive | None,
        Doc("largest number of visible keys that a level's queries attend to; null: all"),
    ] = None
    keys_by: Annotated[
        By,
        Doc(
            "which keys these are: those of the highest learned score in each head, or a random sample "
            "that stays fixed"
        ),
    ] = "score"
    adaln_init: Annotated[
        NonNegativeFloat, Doc("factor on the initial weights of the gates (VAR-d16: 1e-3)")
    ] = 1e-3

    def __post_init__(self) -> None:
        if self.keys_by != "score" and self.most_keys is None:
            raise ValueError(f"keys_by={self.keys_by} chooses among keys: set most_keys, which says how many")


@dataclass(frozen=True)
class ToDraw:
    """What a walk draws: an image for each label, a token for each key."""

    labels_B: Tensor
    # integers, from which the random numbers of a token follow
    key_BL: Tensor
    pyramid: Pyramid
    choice: Choice


# Tokens (B, L), latent maps (B, Z, h, w), and the sum of all numbers that led to them
Walked = tuple[Tensor, Tensor, Tensor]
# A way of drawing that may be faster than `VARTransformer.walk` and gives the same
Walk = Callable[[VQTokenizer, ToDraw], Walked]


@dataclass(frozen=True)
class Drawn:
    """Images as tokens and as latent maps, which a tokenizer's `reconstruct` takes."""

    tokens_BL: Tensor
    f_hat_BZhw: Tensor
    # the running map after every level, where these are asked for
    maps: list[Tensor] = field(default_factory=list)


class VARTransformer(Resizable):
    """Class-conditional next-scale transformer (Tian et al. 2024) under any position encoding.

    The first level starts from one vector, class embedding plus `start_C`; every other level from its view of
    the levels before it. A token sees its own level and all coarser ones, or with `levels_before` the nearest
    so many: 1 is MVAR's view (Zhang et al. 2026, arXiv 2505.12742) but for its neighbourhoods; of these keys
    it attends to `most_keys` at most (`models/keys.py`). Label
    `num_classes` is unconditional, the only one if there are no classes. Arguments as in `GeneratorConfig`;
    `levels`, `codebook_size` and `latent_channels` are the tokenizer's.

    Raises:
        ValueError: widths do not fit, or the encoding cannot follow the pyramid.
    """

    size_argument = "levels"
    class_parameters = "class_embed."
    # what FSDP shards as one piece, and what is compiled once for all layers; None in diffusers
    _no_split_modules = ["AdaLNBlock"]  # type: ignore[assignment]  # noqa: RUF012
    _repeated_blocks = _no_split_modules
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        levels: Sequence[int | Sequence[int]] = tuple(TOKENIZER_DEFAULTS.levels),
        codebook_size: int = TOKENIZER_DEFAULTS.codebook_size,
        latent_channels: int = TOKENIZER_DEFAULTS.latent_channels,
        num_classes: int = 10,
        encoding: str = GeneratorConfig.encoding,
        level_embedding: LevelKind = GeneratorConfig.level_embedding,
        dim: int = GeneratorConfig.dim,
        depth: int = GeneratorConfig.depth,
        num_heads: int = GeneratorConfig.num_heads,
        mlp_ratio: float = GeneratorConfig.mlp_ratio,
        drop_path: float = GeneratorConfig.drop_path,
        dropout: float = GeneratorConfig.dropout,
        qk_norm: bool = GeneratorConfig.qk_norm,
        shared_adaln: bool = GeneratorConfig.shared_adaln,
        adaln_init: float = GeneratorConfig.adaln_init,
        seed: int = 0,
        kept_grids: Sequence[Grid] | None = None,
        levels_before: int | None = GeneratorConfig.levels_before,
        most_keys: int | None = GeneratorConfig.most_keys,
        keys_by: By = GeneratorConfig.keys_by,
    ) -> None:
        super().__init__()
        if levels_before is not None and levels_before < 1:
            raise ValueError(f"a generator's levels_before must be at least 1, got {levels_before}")
        self.levels_before = levels_before
        for name, value, least in (("depth", depth, 1), ("dim", dim, 1), ("num_classes", num_classes, 0)):
            if value < least:
                raise ValueError(f"a generator's {name} must be at least {least}, got {value}")

        self.pyramid = Pyramid.of(levels)
        self.ladder = self.pyramid  # what `set_input_size` scales
        self.num_classes = num_classes
        self.num_heads = num_heads

        # What the encoding's line leaves to the width is saved with the model.
        encoding = settled(encoding, dim)
        self.register_to_config(encoding=encoding)

        # What goes in: the class, the map so far, positions and levels
        self.class_embed = nn.Embedding(num_classes + 1, dim)
        self.start_C = nn.Parameter(torch.zeros(dim))
        self.word_embed = nn.Linear(latent_channels, dim)
        self.position_encoding = build_encoding(
            encoding, dim=dim, num_heads=num_heads, depth=depth, pyramid=self.pyramid, kept_grids=kept_grids
        )
        self.level_embed = LevelEmbedding(level_embedding, dim=dim, pyramid=self.pyramid)

        # Which keys a level attends to
        check_choice_of("keys_by", keys_by, By)
        width = self.position_encoding.width_of(dim // num_heads)
        if most_keys is not None and self.position_encoding.adds_to_scores:
            raise ValueError(
                f"most_keys={most_keys} selects keys, but the encoding {encoding} acts on the scores of "
                "all of them: leave most_keys at null"
            )
        self.few_keys = most_keys is not None

        # Blocks, modulated by the class
        self.silu = nn.SiLU()
        self.shared_modulation = nn.Linear(dim, 6 * dim) if shared_adaln else None
        self.blocks = Blocks(
            (
                AdaLNBlock(
                    dim,
                    num_heads,
                    mlp_ratio,
                    dropout,
                    qk_norm,
                    shared_adaln,
                    key_choice(most_keys, keys_by, num_heads=num_heads, width=width, seed=seed),
                )
                for _ in range(depth)
            ),
            drop_path,
        )

        # What comes out: logits of the codes
        self.head_modulation = nn.Linear(dim, 2 * dim)
        self.head = nn.Linear(dim, codebook_size)

        self._start_weights(seed, adaln_init)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=standard_deviation(len(parameter)), generator=generator)

    @torch.no_grad()
    def _start_weights(self, seed: int, adaln_init: float) -> None:
        """VAR's initial values: one deviation for all, small heads and gates, residual branches by depth."""
        dim = self.start_C.shape[0]
        initialise(self, seed, std=standard_deviation(dim))
        self.head.weight.mul_(0.02)
        self.head_modulation.weight.mul_(0.5)

        for block in cast(list[AdaLNBlock], list(self.blocks)):
            for branch in (block.attn.proj, block.mlp.fc2):
                branch.weight.div_((2 * len(self.blocks)) ** 0.5)

            # Gates come first, then scales and shifts.
            if self.shared_modulation is None:
                block.modulation.weight[: 2 * dim].mul_(adaln_init)
                block.modulation.weight[2 * dim :].mul_(0.5)
            else:
                block.modulation_6C[:2].mul_(adaln_init)
                block.modulation_6C[2:].mul_(0.5)

    def set_pyramid(self, pyramid: Pyramid, resample: str | None = None) -> None:
        """Other grids from now on, and in a saved copy; `resample` names the convention for a learned table.

        Tables that move are new parameters: make the optimizer afterwards.

        Raises:
            ValueError: a table has to move without a `resample`, or the level embedding lacks a level.
        """
        self._move(pyramid, resample)
        self.ladder = pyramid

    def set_input_size(self, size: Sequence[int], resample: str | None = None) -> None:
        """`set_pyramid` to the model's levels scaled so that the finest has `size` rows and columns.

        Those are an image's sides over the tokenizer's downsampling factor, which a generator does not know.
        The original levels are scaled, those of the constructor or of `set_pyramid`: sizes that are set one
        after another do not add up their rounding, and the first size gives the first levels again.
        """
        rows, columns = sides_of(size, "a generator's input size")
        self._move(self.ladder.for_size(rows, columns), resample)

    def remap_waves(self, how: Remap) -> None:
        """Waves of `rope` turn more slowly at larger sizes than the original one, also in a saved copy.

        No weight changes. `how` is the option `remap` of `encodings/rope.py`. The original size is that of
        the constructor or of `set_pyramid`; of a copy that was saved after a move, the one it was moved to.

        Raises:
            ValueError: the encoding has no `rope` in cells, its line says itself how it is remapped, or it is
                being retrofitted.
        """
        if how == "none":
            return
        line = remapped(self.config["encoding"], how, self.ladder.grids[-1])
        old = dict(self.position_encoding.named_parameters())
        dim, num_heads, depth = (self.config[name] for name in ("dim", "num_heads", "depth"))
        encoding = build_encoding(
            line,
            dim=dim,
            num_heads=num_heads,
            depth=depth,
            pyramid=self.pyramid,
            kept_grids=self.config["kept_grids"],
        )
        if list(dict(encoding.named_parameters())) != list(old):
            raise ValueError(f"remap={how}: the encoding is being retrofitted to {line}; finish that first")
        encoding.load_state_dict(self.position_encoding.state_dict())
        for name, parameter in encoding.named_parameters():
            parameter.requires_grad_(old[name].requires_grad)
        self.position_encoding = encoding.to(self.device, self.dtype).train(self.training)
        self.register_to_config(encoding=line)

    def _move(self, pyramid: Pyramid, resample: str | None) -> None:
        self.level_embed.check_levels(pyramid)
        self._move_encoding(pyramid, resample)
        self.register_to_config(levels=[list(grid) for grid in pyramid.grids])

    def move_to(self, size: Sequence[int | Sequence[int]], resample: str | None) -> None:
        self.set_pyramid(Pyramid.of(size), resample)

    def forward(
        self,
        labels_B: Tensor,
        inputs_BLZ: Tensor,
        pyramid: Pyramid | None = None,
        levels: int | None = None,
    ) -> Tensor:
        """Logits (B, L, V) of all levels at once from the inputs of all but the first.

        They are of the type that products are computed in, bfloat16 under such an autocast, else float32:
        they are the largest tensor of a step, and its loss is computed in float32 of a few at a time.

        With `levels`, of the coarsest so many alone; positions are counted in the whole pyramid all the same.
        """
        positions = (pyramid or self.pyramid).positions(inputs_BLZ.device)
        if levels is not None:
            positions = positions.only(0, levels)
        class_BC = self.class_embed(labels_B)
        x_BLC = torch.cat([self.first_level(class_BC, positions), self.embed_inputs(inputs_BLZ)], dim=1)

        # A token sees its own level and the coarser ones.
        kernel = kernel_for(
            x_BLC.device.type,
            _compute_dtype(x_BLC),
            positions.num_tokens,
            positions.num_tokens,
            needs_grad=torch.is_grad_enabled(),
            has_bias=self.position_encoding.adds_to_scores,
        )
        position_context = all_levels(
            self.position_encoding,
            positions,
            kernel,
            before=self.levels_before,
            few_keys=self.few_keys,
        )
        return self._blocks(x_BLC, class_BC, positions, position_context)

    def first_level(self, class_BC: Tensor, positions: Positions) -> Tensor:
        """What the first level starts from, (B, l, C): one vector for all its tokens."""
        h, w = positions.grids[0]
        return (class_BC + self.start_C)[:, None].expand(-1, h * w, -1)

    def embed_inputs(self, inputs_BlZ: Tensor) -> Tensor:
        """What every other level starts from, (B, l, C): its view of the levels before it."""
        return self.word_embed(inputs_BlZ.to(self.word_embed.weight.dtype))

    def _blocks(
        self,
        x_BLC: Tensor,
        class_BC: Tensor,
        positions: Positions,
        position_context: PositionContext,
        cache: LevelCache | None = None,
    ) -> Tensor:
        # Positions and levels, in float32
        dtype = _compute_dtype(x_BLC)
        with full_precision(x_BLC):
            x_BLC = self.position_encoding.embed(x_BLC.float(), position_context.query)
            level_LC = self.level_embed(positions)
            x_BLC = x_BLC if level_LC is None else x_BLC + level_LC
        x_BLC = x_BLC.to(dtype)

        # Blocks
        cond_BC = self.silu(class_BC)
        block_cond = cond_BC if self.shared_modulation is None else self.shared_modulation(cond_BC)
        x_BLC = self.blocks(x_BLC, position_context, block_cond, cache=cache)

        # Head
        scale_B1C, shift_B1C = self.head_modulation(cond_BC)[:, None].type_as(x_BLC).chunk(2, dim=-1)
        logits_BLV: Tensor = self.head(modulated(x_BLC, scale_B1C, shift_B1C))
        return logits_BLV

    @torch.no_grad()
    def generate(
        self,
        tokenizer: VQTokenizer,
        labels_B: Tensor,
        pyramid: Pyramid | None = None,
        *,
        generators: Sequence[torch.Generator],
        guidance_scale: float = 0.0,
        guidance_schedule: str | Sequence[float] = "linear",
        scale_guidance: float | Sequence[float] = 0.0,
        temperature: float | Sequence[float] = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        smooth: bool = False,
        given_BL: Tensor | None = None,
        on_level: Callable[[int, Tensor], None] | None = None,
        keep_maps: bool = False,
        walk: Walk | None = None,
    ) -> Drawn:
        """Draws images level by level; image i follows from `generators[i]` and its label alone.

        Of each generator one number is drawn, from which the numbers of the image's tokens follow.
        `guidance_scale` 0 computes no unconditional half (see `guidance_per_level`); `top_k` 0 and `top_p` 0
        keep all tokens; `temperature` and `scale_guidance` (0: none) are one or one per level. `smooth` mixes
        codes (see `gumbel_mix`), and the tokens are then the heaviest of each mixture. `given_BL` are tokens
        to keep, -1 where one is to be drawn: all later levels see them. `on_level(level, f_hat_BZhw)` is
        called after every level; `keep_maps` keeps these maps. `walk` stands in for the model's own, if none
        of these three is asked.

        Raises:
            ValueError: a setting is out of its range, or the encoding cannot follow the pyramid.
            FloatingPointError: logits or latent maps are not finite; found once at the end, so that no level
                waits for the device.
        """
        pyramid = pyramid or self.pyramid
        check_choice(top_k=top_k, top_p=top_p)
        choice = Choice(
            tuple(guidance_per_level(guidance_scale, guidance_schedule, pyramid.num_levels)),
            tuple(temperature_per_level(temperature, pyramid.num_levels)),
            int(top_k),
            float(top_p),
            smooth,
            tuple(scale_guidance_per_level(scale_guidance, pyramid.num_levels)),
        )
        self._check_drawing(len(labels_B), pyramid, generators, given_BL)

        # Every level's map, if anybody wants to see it
        maps: list[Tensor] = []

        def seen(level: int, f_hat_BZhw: Tensor) -> None:
            if keep_maps:
                maps.append(f_hat_BZhw)
            if on_level is not None:
                on_level(level, f_hat_BZhw)

        key_BL = token_keys(keys_of(generators, labels_B.device), pyramid)
        wanted = ToDraw(labels_B, key_BL, pyramid, choice)
        if walk is None or given_BL is not None or on_level is not None or keep_maps:
            walked = self.walk(tokenizer, wanted, given_BL, seen)
        else:
            walked = walk(tokenizer, wanted)
        tokens_BL, f_hat_BZhw, sum_of_all = walked
        check_finite(sum_of_all)
        return Drawn(tokens_BL, f_hat_BZhw, maps)

    @torch.no_grad()
    def walk(
        self,
        tokenizer: VQTokenizer,
        wanted: ToDraw,
        given_BL: Tensor | None = None,
        on_level: Callable[[int, Tensor], None] = lambda level, f_hat_BZhw: None,
    ) -> Walked:
        """`generate` with a key for every token, unchecked. Nothing in it waits for the device.

        The sum of all numbers is finite if each of them is.
        """
        pyramid, choice = wanted.pyramid, wanted.choice

        # The reconstruction so far, which every level adds to
        quantizer = tokenizer.quantizer
        f_hat_BZhw = quantizer.start(len(wanted.labels_B), pyramid)
        number_BL2 = uniform_pairs(wanted.key_BL)
        sum_of_all = f_hat_BZhw.new_zeros(())
        tokens = []
        before_BlV: Tensor | None = None  # the logits of the level before, where it guides the next one

        # The first level starts from the class alone. With guidance, a second half of the batch has no class.
        labels_B = wanted.labels_B
        if choice.guided:
            labels_B = torch.cat([labels_B, torch.full_like(labels_B, self.num_classes)])
        positions = pyramid.positions(labels_B.device)
        class_BC = self.class_embed(labels_B)
        x_BlC = self.first_level(class_BC, positions)
        cache = self.new_cache(x_BlC, pyramid)

        for level, span in enumerate(pyramid.spans):
            # What the model expects
            logits_BlV = self.level_logits(x_BlC, class_BC, positions, level, cache)
            logits_BlV = choice.of_class(logits_BlV, level)
            own_BlV = logits_BlV
            if before_BlV is not None and choice.by_scale[level]:
                prior_BlV = prior_of(before_BlV, pyramid.grids[level - 1], pyramid.grids[level])
                logits_BlV = guided_by_scale(own_BlV, prior_BlV, choice.by_scale[level])
            before_BlV = own_BlV if choice.guided_by_scale else None
            logits_BlV = choice.tempered(logits_BlV, level)
            sum_of_all = sum_of_all + logits_BlV.sum()  # before some become -inf on purpose

            # What may be drawn
            logits_BlV = kept_logits(logits_BlV, top_k=choice.top_k, top_p=choice.top_p)
            if given_BL is not None:
                logits_BlV = given_logits(logits_BlV, given_BL[:, span])

            # The draw, or a mixture of codes instead
            if choice.smooth:
                progress = level / max(1, pyramid.num_levels - 1)
                mix_BlV = gumbel_mix(logits_BlV, wanted.key_BL[:, span], progress)
                tokens.append(mix_BlV.argmax(-1))
                f_hat_BZhw = quantizer.add_mixed(f_hat_BZhw, mix_BlV, level, pyramid)
            else:
                tokens.append(draw(logits_BlV, number_BL2[:, span]))
                f_hat_BZhw = quantizer.add_level(f_hat_BZhw, tokens[-1], level, pyramid)
            on_level(level, f_hat_BZhw)

            # The next level starts from its view of all so far, with guidance in both halves of the batch.
            if level + 1 < pyramid.num_levels:
                inputs_BlZ = quantizer.input_for(f_hat_BZhw, level + 1, pyramid)
                x_BlC = self.embed_inputs(inputs_BlZ).repeat(2 if choice.guided else 1, 1, 1)

        return torch.cat(tokens, 1), f_hat_BZhw, sum_of_all + f_hat_BZhw.sum()

    def _check_drawing(
        self, batch: int, pyramid: Pyramid, generators: Sequence[torch.Generator], given_BL: Tensor | None
    ) -> None:
        if len(generators) != batch:
            raise ValueError(f"each image has its own generator: got {len(generators)} for {batch} labels")
        if given_BL is None:
            return

        if given_BL.shape != (batch, pyramid.num_tokens):
            raise ValueError(
                f"given tokens are {batch} rows of {pyramid.num_tokens} (-1: draw), "
                f"got shape {tuple(given_BL.shape)}"
            )
        if not (given_BL.min() >= -1 and given_BL.max() < self.head.out_features):
            raise ValueError(f"given tokens lie in 0 .. {self.head.out_features - 1}, or are -1 to be drawn")

    def new_cache(self, x_BlC: Tensor, pyramid: Pyramid) -> LevelCache:
        """Room for the keys and values of a whole pyramid, or of the levels that one sees at most."""
        positions = pyramid.positions()
        tokens = 0
        for level in range(pyramid.num_levels):
            seen = positions.only(first_seen(level, self.levels_before), level + 1)
            tokens = max(tokens, seen.num_tokens)

        width = self.position_encoding.width_of(x_BlC.shape[-1] // self.num_heads)
        like = torch.empty(0, dtype=_compute_dtype(x_BlC), device=x_BlC.device)
        return LevelCache(len(self.blocks), x_BlC.shape[0], self.num_heads, tokens, width, like)

    def level_logits(
        self, x_BlC: Tensor, class_BC: Tensor, positions: Positions, level: int, cache: LevelCache
    ) -> Tensor:
        """One level's pass, (B, l, V): its queries see every key in the cache, so there is no mask."""
        here = positions.only(level, level + 1)
        seen = positions.only(first_seen(level, self.levels_before), level + 1)
        query = self.position_encoding.prepare(here)
        key = query
        if self.position_encoding.asks_of_calls:
            key = self.position_encoding.prepare(seen.as_keys_of(level))

        cache.open(here.num_tokens, kept=seen.num_tokens - here.num_tokens)
        position_context = PositionContext(
            self.position_encoding, query, key, turns_keys=self.position_encoding.turns_keys_by_query
        )
        return self._blocks(x_BlC, class_BC, here, position_context, cache).float()


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The blocks run in autocast's type where it is on: a float32 residual would be cast at every layer."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
