"""What a sampling program computes and moves, pass by pass.

A generation is a chain of passes over the transformer: one for each step, one
more where guidance begins late, one over the depth transformer for each code
where there is one, and the decoder. Small ones wait for memory:
each reads all weights, so that a batch of one image is bound by the number
of steps times the bytes of the weights, and by the kernels that are launched
one after the other. Counted are products, weights, the cache, and logits
written and read once; activations inside a block are not. Guidance doubles
the rows of a step and not its weights. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import itertools
from typing import NamedTuple

from varjax import flops
from varjax.devices import Device
from varjax.params import (
  ITEM_BYTES,
  Sequence,
  head_outputs,
  parameter_counts,
)
from varjax.spec import ModelSpec, PrecisionSpec, SampleSpec, TokenizerSpec
from varjax.tokenizer_costs import tokenizer_parameter_counts

_FLOAT32 = 4
# Without the kernel of the filters, passes over the logits of a step: 16 digits
# of the threshold, the 6 or so of the index of equals, and the probabilities.
_TOP_K_PASSES, _TOP_P_PASSES = 17, 25
# With it the filtered row is written, and read by the draw.
_FILTERED_PASSES = 2


class _Launches(NamedTuple):
  """Kernels of a program for an H100, as XLA's CUDA compiler made them.

  Of VAR-d16 with guidance, both filters and the official decoder: by
  `varjax.aot.traffic.moves` of the sampling program, trips of loops counted
  (jax 0.10.2, 2026-11-24).
  """

  block: int  # Of at most `_FEW_ROWS` rows.
  large_block: int
  step: int  # Around the blocks: embedding, classifier, draw, features.
  filters: int  # Of top-k and of top-p, of a step.
  decoder: int
  labels: int = 3


# Other orders and tokenizers differ by a few kernels of a step, and by the
# decoder's layers.
_WITH_KERNELS = _Launches(20, 26, step=26, filters=1, decoder=431)
_WITHOUT = _Launches(27, 26, step=35, filters=196, decoder=379)
_FEW_ROWS = 512  # `models.product.MOST_ROWS`, which this may not import.


@dataclasses.dataclass(frozen=True)
class Pass:
  """Work that one pass does for a whole batch, and bytes that it moves.

  Attributes:
    name: 'labels', 'step 3', 'step 3 code 1', 'catch up', 'decoder'.
    halves: of the batch that are run; 2 under guidance.
    rows: positions through the blocks, over images and halves.
    layers: blocks that follow each other.
    flops: multiply-adds count 2.
    weight_bytes: weights, each read once.
    cache_bytes: keys and values read and written.
    logit_bytes: logits, written and read once.
    filter_bytes: what the filters move beside that. Not part of `bytes`: few
      rows of logits stay in a cache on the chip.
    launches: kernels that follow each other, about; 0 where nobody counted
      them (a depth transformer's).
  """

  name: str
  halves: int = 1
  rows: int = 0
  layers: int = 0
  flops: int = 0
  weight_bytes: int = 0
  cache_bytes: int = 0
  logit_bytes: int = 0
  filter_bytes: int = 0
  launches: int = 0

  @property
  def bytes(self) -> int:
    """Moved to and from the device's memory at the least."""
    return self.weight_bytes + self.cache_bytes + self.logit_bytes

  def seconds(self, device: Device) -> float:
    """The longer of computing and moving, at measured speeds if known."""
    speed = device.reached_flops
    bandwidth = device.reached_bandwidth
    return max(self.flops / speed, self.bytes / bandwidth)


def roofline_s(passes: Iterable[Pass], device: Device) -> float:
  """The least seconds of passes that follow each other."""
  return sum(one.seconds(device) for one in passes)


def sampling_passes(
  model: ModelSpec,
  codes: TokenizerSpec | Sequence,
  batch: int = 1,
  sample: SampleSpec = SampleSpec(),  # noqa: B008 - frozen
  precision: PrecisionSpec = PrecisionSpec(),  # noqa: B008 - frozen
  *,
  kernels: bool = True,
) -> tuple[Pass, ...]:
  """The passes of a cached generation, in their order.

  Args:
    model: the transformer.
    codes: the tokenizer (next-scale order, and the decoder is counted), or
      the sequence of any order with a cache.
    batch: images.
    sample: guidance and truncation.
    precision: types of arithmetic, weights and cache.
    kernels: whether ours for NVIDIA GPUs run; only XLA's otherwise.
  """
  sequence = flops.sequence_of(codes)
  sizes = sequence.block_sizes
  guided = (
    range(*(sample.guided or (0, len(sizes)))) if sample.cfg else range(0)
  )
  count = _Counter(model, sequence, batch, sample, precision, kernels)
  passes = [count.labels(2 if guided else 1)]
  for step in range(len(sizes)):
    if step == guided.start and step:
      passes.append(count.step(range(step), 1, 'catch up'))
    halves = 2 if step in guided else 1
    passes.append(count.step(range(step, step + 1), halves, f'step {step}'))
    if sequence.depth_dim:
      passes += count.codes(step, halves)
  if isinstance(codes, TokenizerSpec):
    work = flops.tokenizer_flops_per_image(codes, 'decode')
    work += flops.tokenizer_flops_per_image(codes, 'features')
    params = tokenizer_parameter_counts(codes)
    read = params.decoder + params.post_quant_conv + params.quantizer
    passes.append(
      Pass(
        'decoder',
        flops=batch * work,
        weight_bytes=read * _FLOAT32,
        launches=(_WITH_KERNELS if kernels else _WITHOUT).decoder,
      )
    )
  return tuple(passes)


class _Counter:
  """Counts single passes of one generation."""

  def __init__(
    self,
    model: ModelSpec,
    sequence: Sequence,
    batch: int,
    sample: SampleSpec,
    precision: PrecisionSpec,
    kernels: bool,
  ):
    self._model, self._sequence, self._batch = model, sequence, batch
    self._launches = _WITH_KERNELS if kernels else _WITHOUT
    filters = bool(sample.top_k), bool(sample.top_p)
    self._filter_launches = self._launches.filters * any(filters)
    self._filters = _FILTERED_PASSES * any(filters)
    if not kernels:
      self._filters = _TOP_K_PASSES * filters[0] + _TOP_P_PASSES * filters[1]
    compute = precision.compute or model.compute_dtype
    self._compute_size = ITEM_BYTES[compute]
    self._weight_size = ITEM_BYTES[precision.weights or compute]
    self._cache_row = model.width * ITEM_BYTES[precision.cache or compute]
    if precision.cache == 'int8':
      self._cache_row += model.heads * _FLOAT32
    # Of the large transformer alone.
    self._whole = flops.forward_flops_per_image(
      model, dataclasses.replace(sequence, depth_dim=0)
    )
    self._params = parameter_counts(model, sequence)
    self._ends = list(itertools.accumulate(sequence.block_sizes))

  def labels(self, halves: int) -> Pass:
    """The modulations of all blocks and of the head, once."""
    whole, params = self._whole, self._params
    work = whole.adaln + 4 * self._model.width**2 * (
      self._model.norm == 'adaln'
    )
    return Pass(
      'labels',
      halves,
      flops=self._batch * halves * work,
      weight_bytes=params.adaln * self._weight_size
      + params.head_adaln * _FLOAT32,
      launches=self._launches.labels,
    )

  def step(self, steps: range, halves: int, name: str) -> Pass:
    """Blocks of rows in one pass; only a single block is classified."""
    model, sequence = self._model, self._sequence
    sizes, ends = sequence.block_sizes, self._ends
    rows = sum(sizes[step] for step in steps)
    pairs = sum(sizes[step] * ends[step] for step in steps)
    inputs = 0
    if not sequence.symbols:
      inputs = rows - (sequence.start if steps.start == 0 else 0)
    work = self._whole.linear * rows // sequence.positions
    work += 4 * model.depth * model.width * pairs
    work += 2 * inputs * sequence.input_dim * model.width
    weights, logits = self._params.linear, 0
    if len(steps) == 1 and not sequence.depth_dim:
      logits = rows * head_outputs(model, sequence)
      work += 2 * logits * model.width
      weights += self._params.head
    images = self._batch * halves
    launches = self._launches.large_block
    if images * rows <= _FEW_ROWS:
      launches = self._launches.block
    seen = ends[steps.start] - sizes[steps.start]
    return Pass(
      name,
      halves,
      rows=images * rows,
      layers=model.depth,
      flops=images * work,
      weight_bytes=weights * self._weight_size,
      cache_bytes=2 * model.depth * images * (seen + rows) * self._cache_row,
      logit_bytes=2 * images * logits * _FLOAT32,
      filter_bytes=self._batch * logits * _FLOAT32 * self._filters,
      launches=model.depth * launches
      + self._launches.step
      + self._filter_launches * bool(logits),
    )

  def codes(self, step: int, halves: int) -> list[Pass]:
    """The passes of the depth transformer after a step, one for each code.

    Its cache is small and stays in the compute type.
    """
    model, sequence = self._model, self._sequence
    count, size = sequence.targets_per_position, sequence.block_sizes[step]
    rows = self._batch * halves * size
    logits = head_outputs(model, sequence) // count
    both = flops.forward_flops_per_image(model, sequence)
    linear = both.linear - self._whole.linear
    fixed = linear // (sequence.positions * count) + 2 * logits * model.width
    weights = self._params.depth + self._params.head
    passes = []
    for code in range(count):
      seen = code + 1
      work = fixed + 4 * model.depth_layers * model.width * seen
      if code:
        work += 2 * sequence.depth_dim * model.width
      cached = 2 * model.depth_layers * seen * model.width
      passes.append(
        Pass(
          f'step {step} code {code}',
          halves,
          rows=rows,
          layers=model.depth_layers,
          flops=rows * work,
          weight_bytes=weights * self._weight_size,
          cache_bytes=rows * cached * self._compute_size,
          logit_bytes=2 * rows * logits * _FLOAT32,
          filter_bytes=self._batch * size * logits * _FLOAT32 * self._filters,
        )
      )
    return passes
