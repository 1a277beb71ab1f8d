"""Attention patterns of a trained next-scale run, with a random control.

  python benchmarks/attention_patterns.py runs/paradigms/sweep/NAME \\
    --plot docs/images/attention_patterns.png

Per head and layer: mean distance of what is looked at, share of the weights
on each scale, entropy. The control is the same transformer with the weights
that training starts from. Prints one JSON line per layer.
"""

from __future__ import annotations

import argparse
import json
import pathlib

from flax.core import meta
import jax
import jax.numpy as jnp
import numpy as np

from varjax import checkpoint, errors
from varjax.data import codes as code_cache
from varjax.evals import attention
from varjax.models import maps, rotary
from varjax.models.transformer import Transformer
from varjax.orders import make_order
from varjax.tasks import make_task
from varjax.tokenizers import artifact
from varjax.workdir import Workdir


def main() -> None:
  """Prints the patterns of both transformers and draws them."""
  args = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  args.add_argument('workdir', type=pathlib.Path)
  args.add_argument('--images', type=int, default=64)
  args.add_argument('--plot', type=pathlib.Path, required=True)
  given = args.parse_args()
  run = Workdir(given.workdir).run()
  if run.order.name != 'scale':
    raise errors.ConfigError(
      f'{given.workdir}: order.name={run.order.name!r}; patterns across '
      'scales need order.name=scale'
    )
  trained = checkpoint.load_params(given.workdir, ('params',))['params']
  fresh, _ = jax.jit(make_task(run).init)(jax.random.key(run.seed))
  found = {
    'trained': _patterns(run, trained, given.images),
    'random': _patterns(run, meta.unbox(fresh), given.images),
  }
  for name, patterns in found.items():
    for layer in range(len(patterns.distance)):
      row = {
        'weights': name,
        'layer': layer,
        'distance': patterns.distance[layer].round(3).tolist(),
        'entropy': patterns.entropy[layer].round(3).tolist(),
        'last_scale_on_scales': patterns.mass[layer, :, -1]
        .mean(axis=0)
        .round(3)
        .tolist(),
        'chance': patterns.chance[-1].round(3).tolist(),
      }
      print(json.dumps(row))
  _draw(found, given.plot)


def _patterns(run, params, images: int) -> attention.Patterns:
  tokenizer = artifact.load(run.tokenizer_dir)
  source = code_cache.open_codes(
    run.codes_dir, 'validation', tokenizer_id=tokenizer.id
  )
  index = np.linspace(0, len(source) - 1, min(images, len(source))).astype(int)
  batch = [source[int(i)] for i in index]
  codes = jnp.asarray(np.stack([b['codes'] for b in batch]), jnp.int32)
  labels = jnp.asarray([b['label'] for b in batch], jnp.int32)
  order = make_order(run.order, tokenizer.spec)
  model = Transformer(run.model, order.layout)
  weights = jax.tree.map(jnp.asarray, tokenizer.params)
  quantizer = tokenizer.tokenizer.quantizer(weights)

  @jax.jit
  def forward(params, labels, codes):
    example = order.example(quantizer, codes)
    _, found = model.apply(
      {'params': params}, labels, example.inputs, mutable=[maps.COLLECTION]
    )
    return maps.of_layers(found)

  return attention.patterns(
    np.asarray(forward(params, labels, codes)),
    rotary.coordinates(order.layout, 2),
    order.layout.block_sizes,
  )


def _draw(found: dict[str, attention.Patterns], path: pathlib.Path) -> None:
  import matplotlib as mpl

  mpl.use('Agg')
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))
  layers = np.arange(len(found['trained'].distance))
  for name, marker in (('trained', 'o'), ('random', 'x')):
    part = found[name]
    for axis, values in zip(axes, (part.distance, part.entropy), strict=False):
      color = 'tab:blue' if name == 'trained' else 'tab:grey'
      axis.plot(layers, values, marker, color=color, alpha=0.6)
      axis.plot(layers, values.mean(axis=1), color=color, label=name)
  axes[0].set(ylabel='mean distance, cells of the finest grid')
  axes[1].set(ylabel='entropy / entropy of all alike')
  for axis in axes[:2]:
    axis.set(
      xlabel='layer (points: heads)', ylim=(0, None), xticks=range(len(layers))
    )
    axis.legend(fontsize=7)
  for axis, name in zip(axes[2:], ('trained', 'random'), strict=True):
    share = found[name].mass.mean(axis=(0, 1))
    image = axis.imshow(share, vmin=0, vmax=1, cmap='viridis')
    for (i, j), value in np.ndenumerate(share):
      if j <= i:
        chance = found[name].chance[i, j]
        axis.text(
          j, i, f'{value:.2f}\n({chance:.2f})', ha='center', va='center',
          fontsize=6, color='w' if value < 0.6 else 'k',
        )  # fmt: skip
    axis.set(
      title=f'{name}: share (chance)', xlabel='scale looked at',
      ylabel='scale looking', xticks=range(len(share)),
      yticks=range(len(share)),
    )  # fmt: skip
    figure.colorbar(image, ax=axis, shrink=0.8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()
