"""`varjax encode`: a dataset once through a tokenizer, into a code cache."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import tqdm

from varjax import errors
from varjax.coerce import build
from varjax.spec import DataSpec
from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Encodes the splits that are not there yet; returns the exit code."""
  parser = arguments.parser(
    'encode',
    'Encode a dataset once with a trained tokenizer. An interrupted encode '
    'goes on where it was; finished shards are verified, not repeated.',
    'The dataset is the one the tokenizer was trained on, unless keys are '
    'changed with --data.KEY=VALUE, such as --data.name=imagenet2012 '
    '--data.data_dir=DIR --data.resolution=256.',
  )
  parser.add_argument(
    '--tokenizer', required=True, help='workdir of the trained tokenizer'
  )
  parser.add_argument('--out', required=True, help='folder of the code cache')
  parser.add_argument(
    '--splits', default='train,validation', help='splits to encode'
  )
  parser.add_argument(
    '--views',
    type=int,
    default=1,
    help='random crops of each training image; epoch e trains on view '
    'e modulo VIEWS',
  )
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument(
    '--shard_images', type=int, default=8192, help='images per shard file'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the crops')
  parser.add_argument('--quiet', action='store_true', help='no progress bar')
  rest, data_overrides = _split_data(argv)
  args = parser.parse_args(rest)
  splits = tuple(filter(None, args.splits.split(',')))
  for split in splits:
    if split not in ('train', 'validation'):
      raise errors.ConfigError(
        f'--splits={args.splits}: {split!r} must be train or validation'
      )
  for name in ('views', 'batch_size', 'shard_images'):
    if getattr(args, name) < 1:
      raise errors.ConfigError(f'--{name}: must be at least 1')

  import jax

  from varjax import compilation
  from varjax.data import sources
  from varjax.data.encode import encode_split
  from varjax.tokenizers import artifact

  compilation.enable_cache()
  trained = artifact.load(args.tokenizer)
  data = _data_of(trained.data, data_overrides)
  params = jax.device_put(trained.params)

  @jax.jit
  def encode_batch(params, images):
    return trained.tokenizer.encode(
      params, images.astype('float32') / 127.5 - 1
    )

  def encode(images: np.ndarray) -> jax.Array:
    return encode_batch(params, images)

  for split in splits:
    source = sources.open_source(data, split)
    start = time.monotonic()
    with tqdm.tqdm(
      desc=f'encode {split}', unit='img', disable=args.quiet or None
    ) as bar:

      def show(done: int, total: int, bar=bar) -> None:
        bar.total = total
        bar.update(done - bar.n)

      manifest = encode_split(
        encode,
        source,
        args.out,
        tokenizer_id=trained.id,
        code_spec=trained.tokenizer.code_spec,
        data_spec=data,
        split=split,
        views=args.views if split == 'train' else 1,
        batch_size=args.batch_size,
        shard_images=args.shard_images,
        seed=args.seed,
        progress=show,
      )
    seconds = time.monotonic() - start
    print(
      f'{split}: codes {manifest.codes_id} of {len(source)} images in '
      f'{manifest.views} view(s), {seconds:.1f} s'
    )
  return 0


def _split_data(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  rest, overrides = [], {}
  for item in argv:
    if item.startswith('--data.'):
      key, equals, value = item.removeprefix('--data.').partition('=')
      if not equals:
        raise errors.ConfigError(f'{item}: write it as {item}=VALUE')
      overrides[key] = value
    else:
      rest.append(item)
  return rest, overrides


def _data_of(data: DataSpec, overrides: dict[str, str]) -> DataSpec:
  return build(DataSpec, {**dataclasses.asdict(data), **overrides}, 'data.')
