"""What a run may not be: combinations refused before anything compiles."""

from __future__ import annotations

import dataclasses
import itertools

from varjax import errors, tokenizer_rules
from varjax import spec as specs
from varjax.memory import REMAT
from varjax.params import sub_vocab

# Orders whose inputs are the features of a multi-scale quantizer.
_READ_SCALES = ('scale', 'split')
# The first CUDA devices with products of float8 (Ada).
_FLOAT8 = (8, 9)


def validate(run: specs.RunSpec) -> None:
  """Refuses combinations that cannot run, before anything is compiled.

  Raises:
    ConfigError: naming the key and what is allowed.
  """
  tok, model, data = run.tokenizer, run.model, run.data
  _one_of('task', run.task, ('reconstruct', 'generate'))
  _one_of('role', run.role, ('fit', 'holdout', 'debug'))
  _one_of('input', run.input, ('codes', 'images'))
  _one_of('model.compute_dtype', model.compute_dtype, ('float32', 'bfloat16'))
  _one_of('model.products', model.products, ('compute', 'fp8'))
  _one_of('model.fused', model.fused, ('auto', 'on', 'off'))
  _one_of('model.remat', model.remat, (*REMAT, 'auto'))
  _one_of('model.norm', model.norm, ('adaln', 'layernorm', 'rmsnorm'))
  _one_of('model.mlp', model.mlp, ('gelu', 'swiglu'))
  _one_of('model.position', model.position, ('learned', 'rotary1d', 'rotary2d'))
  _one_of(
    'optim.moments_dtype', run.optim.moments_dtype, ('float32', 'bfloat16')
  )
  for key, value in (
    ('batch_size', run.batch_size),
    ('data.resolution', data.resolution),
    ('model.depth', model.depth),
    ('model.width', model.width),
    ('model.heads', model.heads),
    ('tokenizer.vocab', tok.vocab),
    ('tokenizer.code_dim', tok.code_dim),
    ('optim.accumulate', run.optim.accumulate),
    ('keep_checkpoints', run.keep_checkpoints),
  ):
    if value < 1:
      raise errors.ConfigError(f'{key}={value}: must be at least 1')
  if run.data_timeout_s < 0:
    raise errors.ConfigError(
      f'data_timeout_s={run.data_timeout_s}: must be positive, or 0 to wait '
      'for ever'
    )
  if model.width % model.heads:
    raise errors.ConfigError(
      f'model.heads={model.heads}: must divide model.width={model.width}'
    )
  if run.batch_size % run.optim.accumulate:
    raise errors.ConfigError(
      f'optim.accumulate={run.optim.accumulate}: must divide '
      f'batch_size={run.batch_size}'
    )
  for key in ('total', 'evaluate', 'checkpoint', 'log'):
    _check_duration(key, getattr(run, key), required=key == 'total')
  _check_duration('optim.warmup', run.optim.warmup, required=False)
  if run.init_from and run.task != 'generate':
    raise errors.ConfigError(
      f'init_from={run.init_from!r}: only task=generate starts from other '
      'weights; leave it empty'
    )
  if not 0 <= run.ema < 1:
    raise errors.ConfigError(
      f'ema={run.ema}: must be in [0, 1); 0 keeps no average of the weights'
    )
  if run.task == 'reconstruct' and tok.kind in tokenizer_rules.PIXELS:
    raise errors.ConfigError(
      f'tokenizer.kind={tok.kind!r}: has nothing to train; write it with '
      '`varjax pixel-tokenizer`'
    )
  if model.depth_layers < 1:
    raise errors.ConfigError(
      f'model.depth_layers={model.depth_layers}: must be at least 1'
    )
  _at_least('data_prefetch', run.data_prefetch, -1)
  _at_least('model.loss_chunks', model.loss_chunks, 0)
  if model.unroll < 0 or (model.unroll and model.depth % model.unroll):
    raise errors.ConfigError(
      f'model.unroll={model.unroll}: must divide model.depth={model.depth}, '
      'or be 0'
    )
  if model.head_factors < 1:
    raise errors.ConfigError(
      f'model.head_factors={model.head_factors}: must be at least 1'
    )
  if run.task == 'generate':
    sub_vocab(tok.vocab, model.head_factors)
    if run.order.name in _READ_SCALES and tok.kind != 'msvq':
      raise errors.ConfigError(
        f'order.name={run.order.name!r}: reads the features of scales, which '
        f'only tokenizer.kind=msvq has, not {tok.kind!r}'
      )
    if run.order.name == 'residual' and tok.kind in tokenizer_rules.PIXELS:
      raise errors.ConfigError(
        "order.name='residual': reads code vectors, which tokenizer.kind="
        f'{tok.kind!r} has none of'
      )
  if model.products == 'fp8' and model.compute_dtype != 'bfloat16':
    raise errors.ConfigError(
      f'model.products=fp8: needs model.compute_dtype=bfloat16, the type that '
      f'eight bits are left for, not {model.compute_dtype}'
    )
  _check_progressive(run)
  _check_reconstruct(run)
  _check_score(run)
  check_sample(run.sample)
  if run.total.frac:
    raise errors.ConfigError(
      'total.frac: the run cannot be a share of itself; set total.images, '
      'total.steps or total.epochs'
    )
  tokenizer_rules.check(tok)
  _check_scales(tok, data)


def _check_progressive(run: specs.RunSpec) -> None:
  spec = run.progressive
  if not 0 <= spec.share < 1:
    raise errors.ConfigError(
      f'progressive.share={spec.share}: must be in [0, 1); 0 is off'
    )
  if spec.first < 0:
    raise errors.ConfigError(
      f'progressive.first={spec.first}: must be at least 0, the index of a '
      'scale'
    )
  _check_duration('progressive.fade', spec.fade, required=False)
  if spec.share and (run.task, run.order.name) != ('generate', 'scale'):
    raise errors.ConfigError(
      f'progressive.share={spec.share}: only task=generate with '
      'order.name=scale can train coarse scales first; set it to 0'
    )


def check_products(
  model: specs.ModelSpec, platform: str, capability: str | None
) -> None:
  """Refuses products that the devices of a run cannot compute.

  A CPU may: it computes them in a wider type, for tests and loss curves.

  Args:
    model: what is trained.
    platform: of the devices, as JAX names it.
    capability: of a CUDA device, as '9.0'; None where it is not known.

  Raises:
    ConfigError: fp8 on a device that has no such products, or of which
      nobody knows.
  """
  if model.products != 'fp8' or platform == 'cpu':
    return
  major, _, minor = (capability or '').partition('.')
  known = major.isdigit() and minor.isdigit()
  if not known or (int(major), int(minor)) < _FLOAT8:
    raise errors.ConfigError(
      f'model.products=fp8: needs a GPU of compute capability '
      f'{".".join(map(str, _FLOAT8))} or newer (or a CPU, which imitates it), '
      f'not {platform} of {capability or "no known capability"}; use compute'
    )


def check_sample(spec: specs.SampleSpec, turns: int | None = None) -> None:
  """Refuses settings that no sampler can have.

  Args:
    spec: the settings.
    turns: steps of a generation, where they are known.

  Raises:
    ConfigError: naming the setting.
  """
  if not spec.guided:
    return
  fits = len(spec.guided) == 2 and 0 <= spec.guided[0] < spec.guided[1]
  if not fits or (turns is not None and spec.guided[1] > turns):
    raise errors.ConfigError(
      f'sample.guided={spec.guided}: must be (first, stop) with '
      f'0 <= first < stop <= {turns or "steps"}, or () for all steps'
    )


def check_precision(spec: specs.PrecisionSpec) -> None:
  """Refuses types that a sampler does not have.

  Raises:
    ConfigError: naming the type and what is allowed.
  """
  _one_of('compute', spec.compute, ('', 'float32', 'bfloat16'))
  _one_of('weights', spec.weights, ('', 'int8'))
  _one_of('cache', spec.cache, ('', 'int8'))


def _check_score(run: specs.RunSpec) -> None:
  for fraction in run.score.fractions:
    if not 0 < fraction <= 1:
      raise errors.ConfigError(
        f'score.fractions={run.score.fractions}: must be shares of the run, '
        'in (0, 1]'
      )
  least = run.model.num_classes if run.task == 'generate' else 2
  if run.score.fractions and run.score.images < max(least, 2):
    raise errors.ConfigError(
      f'score.images={run.score.images}: must be at least {max(least, 2)}, an '
      'image of every class'
    )


def _check_reconstruct(run: specs.RunSpec) -> None:
  spec = run.reconstruct
  perceptual, gan = spec.perceptual, spec.adversarial
  _one_of(
    'reconstruct.perceptual.backbone',
    perceptual.backbone,
    ('', 'efflite0', 'lpips_vgg16'),
  )
  _one_of(
    'reconstruct.adversarial.discriminator',
    gan.discriminator,
    ('', 'patch', 'dino'),
  )
  for key in ('l1', 'l2', 'quantize'):
    _at_least(f'reconstruct.{key}', getattr(spec, key), 0)
  _at_least('reconstruct.perceptual.weight', perceptual.weight, 0)
  _at_least('reconstruct.perceptual.resolution', perceptual.resolution, 0)
  for key in ('weight', 'colour', 'consistency'):
    _at_least(f'reconstruct.adversarial.{key}', getattr(gan, key), 0)
  for key in ('ch', 'layers'):
    _at_least(f'reconstruct.adversarial.{key}', getattr(gan, key), 1)
  for key in ('translation', 'cutout'):
    value = getattr(gan, key)
    if not 0 <= value < 1:
      raise errors.ConfigError(
        f'reconstruct.adversarial.{key}={value}: must be in [0, 1), a share '
        'of the side of an image'
      )
  for key in ('start', 'warmup', 'blur'):
    _check_duration(
      f'reconstruct.adversarial.{key}', getattr(gan, key), required=False
    )
  _check_duration(
    'reconstruct.adversarial.optim.warmup', gan.optim.warmup, required=False
  )
  for section, chosen, needing in (
    ('perceptual', perceptual.backbone, 'lpips_vgg16'),
    ('adversarial', gan.discriminator, 'dino'),
  ):
    weights = getattr(spec, section).weights
    if (chosen == needing) != bool(weights):
      raise errors.ConfigError(
        f'reconstruct.{section}.weights={weights!r}: must name a file of '
        f'weights for {needing!r}, and for nothing else'
      )


def _check_scales(tok: specs.TokenizerSpec, data: specs.DataSpec) -> None:
  grids = tok.grids
  if not grids:
    raise errors.ConfigError('tokenizer.scales: needs at least one scale')
  for before, after in itertools.pairwise(grids):
    if after[0] < before[0] or after[1] < before[1] or after == before:
      raise errors.ConfigError(
        f'tokenizer.scales={tok.scales}: each scale must be larger than the '
        f'one before; {after} follows {before}'
      )
  if min(grids[0]) < 1:
    raise errors.ConfigError(
      f'tokenizer.scales={tok.scales}: scales must be at least 1'
    )
  if data.resolution % tok.downsample:
    raise errors.ConfigError(
      f'data.resolution={data.resolution}: must be a multiple of '
      f'{tok.downsample}, the down-sampling of tokenizer.ch_mult='
      f'{tok.ch_mult}'
    )
  side = data.resolution // tok.downsample
  if grids[-1] != (side, side):
    raise errors.ConfigError(
      f'tokenizer.scales={tok.scales}: the last scale must be {side}, that '
      f'is data.resolution={data.resolution} / {tok.downsample}'
    )
  for level in tok.ch_mult:
    if tok.ch * level % tok.norm_groups:
      raise errors.ConfigError(
        f'tokenizer.norm_groups={tok.norm_groups}: must divide '
        f'tokenizer.ch * ch_mult = {tok.ch * level}'
      )


def _check_duration(key: str, value: specs.Duration, required: bool) -> None:
  fields = dataclasses.asdict(value)
  present = [f'{key}.{k}={v}' for k, v in fields.items() if v]
  if len(present) > 1 or (required and not present):
    raise errors.ConfigError(
      f'{key}: set exactly one of images, steps, epochs, frac, not '
      f'{", ".join(present) or "none"}'
    )
  if any(v < 0 for v in fields.values()) or value.frac > 1:
    raise errors.ConfigError(f'{present[0]}: must be positive, frac <= 1')


def _at_least(key: str, value: float, least: float) -> None:
  if not value >= least:
    raise errors.ConfigError(f'{key}={value}: must be at least {least}')


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise errors.ConfigError(
      f'{key}={value!r}: must be one of '
      f'{", ".join(name or repr(name) for name in allowed)}'
    )
