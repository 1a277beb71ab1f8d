"""Stage 2: the likelihood of codes given a class (VAR equation 4).

The transformer learns the codes of a frozen tokenizer, read from the cache
(`run.input == 'codes'`) or encoded on the fly ('images'). The loss is the
mean over images of the mean over positions of weight * cross-entropy.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp

from varjax import progressive, tokenizers
from varjax.evals import nll
from varjax.groups import MAIN, Group
from varjax.models import factors as factors_lib
from varjax.models import weights as weights_lib
from varjax.models.embed import drop_labels
from varjax.models.head import Head
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.orders.base import Order
from varjax.rng import stream
from varjax.schedule import Steps
from varjax.spec import RunSpec
from varjax.tasks import scores
from varjax.types import Batch, Codes, EvalOutput, Example, LossOutput, PyTree


@dataclasses.dataclass(frozen=True)
class GenerateTask:
  """Trains a transformer on codes; see `tasks.base.Task`.

  `frozen` is {'quantizer': weights} for cached codes, {'tokenizer': params}
  for images. A batch has 'label' [B] and 'codes' [B, L, R] int32 or 'image'
  [B, H, W, 3] uint8, and may have 'mask' [B]. There is no state, but for the
  number of updates in progressive training.

  Attributes:
    run: the run.
    stage: of progressive training; None trains every scale. Evaluation
      always sees every scale.
  """

  run: RunSpec
  stage: progressive.Stage | None = None
  name = 'generate'

  @functools.cached_property
  def order(self) -> Order:
    """The run's order."""
    return make_order(self.run.order, self.run.tokenizer)

  @functools.cached_property
  def model(self) -> Transformer:
    """The run's network."""
    return Transformer(self.run.model, self.order.layout)

  def stages(self, steps: Steps) -> tuple[tuple[int, GenerateTask], ...]:
    """One stage, or those of progressive training."""
    if not self.run.progressive.share:
      return ((0, self),)
    return tuple(
      (stage.start, dataclasses.replace(self, stage=stage))
      for stage in progressive.stages(self.run, steps)
    )

  def groups(self, steps: Steps) -> dict[str, Group]:
    """One group."""
    return {MAIN: Group(progressive.optim_spec(self.run), steps.warmup)}

  def init(self, rng: jax.Array) -> tuple[PyTree, PyTree]:
    """Returns (params with logical axis names, state)."""
    layout = self.order.layout
    kind = jnp.float32 if layout.input_kind == 'features' else jnp.int32
    rows = layout.positions - layout.start
    inputs = jnp.zeros((1, rows, layout.input_dim), kind)
    steps = jnp.zeros((1, layout.positions), jnp.int32)
    origins = jnp.zeros((1, rows), jnp.int32) if layout.num_origins else None
    label = jnp.zeros((1,), jnp.int32)
    sums = None
    if layout.depth_dim:
      shape = (1, layout.positions, layout.rounds - 1, layout.depth_dim)
      sums = jnp.zeros(shape, jnp.float32)
    variables = self.model.init(
      {'params': rng}, label, inputs, steps=steps, origins=origins, sums=sums
    )
    state = {}
    if self.run.progressive.share:
      state = {'updates': jnp.zeros((), jnp.int32)}
    return variables['params'], state

  def loss_fn(
    self,
    params: PyTree,
    state: PyTree,
    frozen: PyTree,
    batch: Batch,
    rng: jax.Array,
  ) -> tuple[jax.Array, LossOutput]:
    """Training loss, with label drop and stochastic depth.

    The metrics `loss`, `loss_last` (nats per position, without label
    smoothing) and `err` (share of wrong top-1 codes) are batch means.
    """
    model = self.run.model
    quantizer, codes = self._codes(frozen, batch)
    keys = jax.random.split(stream(rng, 'order'), codes.shape[0])
    whole = self._example(quantizer, codes, keys)
    example = self._prefix(whole, state)
    labels = drop_labels(
      stream(rng, 'label_drop'),
      batch['label'],
      model.label_drop,
      model.num_classes,
    )
    found = self._scores(params, labels, example, stream(rng, 'drop_path'))
    mask = batch.get('mask')
    # Over all positions, also where a stage leaves some out.
    per_image = jnp.sum(found.loss * example.weights, axis=1) / self._positions
    loss = nll.batch_mean(per_image, mask)
    # A stage's weights are for its gradient, not for its metrics.
    weights = whole.weights[:, : found.plain.shape[1]]
    plain, wrong = found.plain * weights, found.wrong * weights
    metrics = {
      'loss': nll.batch_mean(jnp.mean(plain, axis=1), mask),
      'loss_last': nll.batch_mean(self._last(plain), mask),
      'err': nll.batch_mean(jnp.mean(wrong, axis=1), mask),
    }
    return loss, LossOutput(metrics=metrics, state=state)

  def eval_fn(
    self, params: PyTree, state: PyTree, frozen: PyTree, batch: Batch
  ) -> EvalOutput:
    """Nats and errors of each image, with its class and with "no class".

    Returns:
      per_image: loss, loss_last, err, err_last, loss_uncond [B]; loss_scales
      and err_scales [B, K]. Labels are kept, unless the run asks for
      upstream's quirk (`model.label_drop_in_eval`).
    """
    del state
    quantizer, codes = self._codes(frozen, batch)
    example = self._example(quantizer, codes, self._eval_keys(codes))
    labels = batch['label']
    if self.run.model.label_drop_in_eval:
      labels = self._drop_per_image(labels, codes)
    found = self._scores(params, labels, example)
    loss, wrong = found.plain * example.weights, found.wrong * example.weights
    nobody = jnp.full_like(labels, self.run.model.num_classes)
    uncond = self._scores(params, nobody, example).plain * example.weights
    per_image = {
      'loss': jnp.mean(loss, axis=1),
      'loss_last': self._last(loss),
      'loss_scales': nll.by_scale(loss, self._blocks),
      'err': jnp.mean(wrong, axis=1),
      'err_last': self._last(wrong),
      'err_scales': nll.by_scale(wrong, self._blocks),
      'loss_uncond': jnp.mean(uncond, axis=1),
    }
    return EvalOutput(per_image=per_image, totals={})

  def after_update(
    self, params: PyTree, state: PyTree, rng: jax.Array, step: jax.Array
  ) -> tuple[PyTree, PyTree]:
    """Counts updates where there are stages."""
    del rng
    return params, {'updates': step + 1} if state else state

  @property
  def _positions(self) -> int:
    return self.order.layout.positions

  @property
  def _blocks(self) -> tuple[int, ...]:
    """The parts that are reported: steps where the order tells them apart."""
    layout = self.order.layout
    if layout.num_steps and layout.block_sizes:
      return layout.block_sizes
    return (layout.positions,)

  def _last(self, values: jax.Array) -> jax.Array:
    """Mean over the finest scale in `values`."""
    stop = values.shape[1]
    newest = list(itertools.accumulate(self._blocks)).index(stop)
    return jnp.mean(values[:, stop - self._blocks[newest] :], axis=1)

  def _prefix(self, example: Example, state: PyTree) -> Example:
    """What the stage trains of an example, with the stage's weights."""
    stage = self.stage
    if stage is None:
      return example
    stop = sum(self._blocks[: stage.last + 1])
    newest = progressive.newest_weight(
      stage.last,
      len(self._blocks),
      state['updates'] - stage.start + 1,
      stage.fade_steps,
      is_first_stage=stage.start == 0,
      xp=jnp,
    )
    weights = progressive.stage_weights(
      self._blocks, stage.last, newest, xp=jnp
    )
    return Example(
      inputs=example.inputs[:, : stop - self.order.layout.start],
      targets=example.targets[:, :stop],
      weights=example.weights[:, :stop] * weights[None],
      positions=example.positions[:, :stop],
      steps=example.steps[:, :stop],
      # Orders with origins or sums have no stages.
      origins=example.origins,
      sums=example.sums,
    )

  def _codes(self, frozen: PyTree, batch: Batch) -> tuple[PyTree, Codes]:
    """The quantizer, and the codes [B, L, R] of a batch."""
    if self.run.input == 'codes':
      return frozen['quantizer'], batch['codes']
    tokenizer = tokenizers.make_tokenizer(
      self.run.tokenizer, self.run.data.resolution
    )
    images = batch['image'].astype(jnp.float32) / 127.5 - 1
    codes = tokenizer.encode(frozen['tokenizer'], images)
    return tokenizer.quantizer(frozen['tokenizer']), codes

  def _example(
    self, quantizer: PyTree, codes: Codes, keys: jax.Array
  ) -> Example:
    """Of the order, with targets as the head predicts them."""
    example = self.order.example(quantizer, codes, keys)
    vocab = self.order.layout.vocab
    targets = factors_lib.split(
      example.targets, vocab, self.run.model.head_factors
    )
    return example.replace(targets=targets)

  def _scores(
    self,
    params: PyTree,
    labels: jax.Array,
    example: Example,
    drop_path: jax.Array | None = None,
  ) -> scores.Scores:
    """Of every position, from all logits at once or from parts of them."""
    spec = self.run.model
    if spec.products == 'compute':  # Others round the weights as they are.
      params = weights_lib.rounded_blocks(params, spec.compute_dtype)
    x, modulation = self.model.apply(
      {'params': params},
      labels,
      example.inputs,
      example.positions,
      example.steps,
      train=drop_path is not None,
      origins=example.origins,
      rngs={} if drop_path is None else {'drop_path': drop_path},
      method='hidden',
    )
    head = Head(spec, self.order.layout)

    def score(x, targets, sums):
      logits = head.apply({'params': params['head']}, x, modulation, sums)
      return scores.of_logits(
        logits,
        targets,
        smoothing=spec.label_smoothing,
        factors=spec.head_factors,
      )

    arrays = x, example.targets, example.sums
    if spec.loss_chunks > 1:
      return scores.in_chunks(score, arrays, spec.loss_chunks)
    return score(*arrays)

  def _eval_keys(self, codes: Codes) -> jax.Array:
    """A key per image [B] for what the order draws in an evaluation.

    One key for all where the likelihood is exact: a sequence that depended
    on the image would make it no distribution. Otherwise a key per image,
    so that their mean estimates an expectation.
    """
    if self.order.loss_kind != 'exact':
      return self._image_keys(codes, 'order')
    key = stream(jax.random.key(self.run.seed), 'order')
    return jnp.broadcast_to(key, codes.shape[:1])

  def _image_keys(self, codes: Codes, name: str) -> jax.Array:
    """Keyed by the image, so that a result does not depend on batching."""
    base = stream(jax.random.key(self.run.seed), name)
    flat = codes.reshape(codes.shape[0], -1).astype(jnp.uint32)
    weights = 2 * jnp.arange(flat.shape[1], dtype=jnp.uint32) + 1
    marks = jnp.sum(flat * weights[None], axis=1, dtype=jnp.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, base))(marks)

  def _drop_per_image(self, labels: jax.Array, codes: Codes) -> jax.Array:
    keys = self._image_keys(codes, 'label_drop_in_eval')
    model = self.run.model
    drop = functools.partial(
      drop_labels, rate=model.label_drop, num_classes=model.num_classes
    )
    return jax.vmap(drop)(keys, labels)
