"""`varjax encode`: a dataset once through a tokenizer, into a code cache.

What it says of speed and of the arithmetic also goes on record, beside the
codes (`data.encoding`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import datetime
import functools
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from varjax import distributed, errors
from varjax.coerce import build
from varjax.data import encoding
from varjax.data.speed import Speed
from varjax.spec import DataSpec
from varjax.tools import arguments

if TYPE_CHECKING:  # --help loads no JAX
  import jax

  from varjax.data.sources import Source
  from varjax.tokenizers.artifact import TrainedTokenizer
  from varjax.tokenizers.base import Tokenizer
  from varjax.types import PyTree


_EXACT = 'the tokenizer computes in float32, so its codes are those of it'


def main(argv: list[str]) -> int:
  """Encodes the splits that are not there yet; returns the exit code."""
  parser = arguments.parser(
    'encode',
    'Encode a dataset once with a trained tokenizer. An interrupted encode '
    'goes on where it was; finished shards are verified, not repeated. Images '
    'per second, the share of time that the device waited for images, and the '
    'agreement with float32 are kept in OUT/SPLIT/encoding.jsonl.',
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
  parser.add_argument(
    '--batch_size', type=int, default=64, help='images encoded at once'
  )
  parser.add_argument(
    '--shard_images', type=int, default=8192, help='images per shard file'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the crops')
  parser.add_argument(
    '--check_fp32',
    type=int,
    default=0,
    metavar='N',
    help='also encode N images of each split in float32 and record the share '
    'of codes that agree (for a tokenizer with compute_dtype=bfloat16)',
  )
  parser.add_argument('--quiet', action='store_true', help='no progress bar')
  distributed.add_arguments(parser)
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
  if args.check_fp32 < 0:
    raise errors.ConfigError('--check_fp32: must be at least 0')

  distributed.start(args)
  import jax

  from varjax import compilation
  from varjax.data import sources
  from varjax.data.encode import encode_split
  from varjax.data.unfinished import Share
  from varjax.tokenizers import artifact

  compilation.enable_cache()
  trained = artifact.load(args.tokenizer)
  data = _data_of(trained.data, data_overrides)
  params = jax.device_put(trained.params, jax.local_devices()[0])
  first = jax.process_index() == 0
  share = Share(jax.process_index(), jax.process_count(), distributed.barrier)
  encode = _encoder(trained.tokenizer, params)

  for split in splits:
    source = sources.open_source(data, split)
    agreement = None
    if args.check_fp32 and first:
      agreement = _check_fp32(trained, params, source, data, args)
      print(f'{split}: {agreement or _EXACT}')
    speed = Speed()
    folder = pathlib.Path(args.out) / split
    with (
      _recorded(folder, split, trained, args, speed, agreement),
      tqdm.tqdm(
        desc=f'encode {split}',
        unit='img',
        disable=args.quiet or not first or None,
      ) as bar,
    ):

      def show(done: int, total: int, bar=bar, speed=speed) -> None:
        bar.total = total
        bar.update(done - bar.n)
        speed.update(done)

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
        waited=speed.wait,
        share=share,
      )
    if first:
      print(
        f'{split}: codes {manifest.codes_id} of {len(source)} images in '
        f'{manifest.views} view(s), {speed}'
      )
      if not speed.images and (known := encoding.describe(folder)):
        print(f'{split}: on record, {known}')
  return 0


@contextlib.contextmanager
def _recorded(
  folder: pathlib.Path,
  split: str,
  trained: TrainedTokenizer,
  args: argparse.Namespace,
  speed: Speed,
  agreement: encoding.Agreement | None,
) -> Iterator[None]:
  """Puts an encode on record, however it ends; of several, the first's."""
  import jax

  complete = False
  try:
    yield
    complete = True
  finally:
    # A folder that was refused is none of ours.
    made_any = speed.images or agreement is not None
    if speed.has_begun and made_any and jax.process_index() == 0:
      encoding.append(
        folder,
        encoding.Encoding(
          tokenizer_id=trained.id,
          split=split,
          date=datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
          complete=complete,
          device_kind=jax.local_devices()[0].device_kind,
          process_count=jax.process_count(),
          compute_dtype=trained.spec.compute_dtype,
          batch_images=args.batch_size,
          images=speed.images,
          wall_s=speed.wall_s,
          images_per_s=speed.images_per_s,
          data_wait=speed.data_wait,
          agreement=agreement,
          jax_version=jax.__version__,
        ),
      )


def _encoder(
  tokenizer: Tokenizer, params: PyTree
) -> Callable[[np.ndarray], jax.Array]:
  """uint8 images to codes, compiled."""
  import jax

  from varjax.tokenizers.base import encode_bytes

  encode = jax.jit(functools.partial(encode_bytes, tokenizer))
  return functools.partial(encode, params)


def _check_fp32(
  trained: TrainedTokenizer,
  params: PyTree,
  source: Source,
  data: DataSpec,
  args: argparse.Namespace,
) -> encoding.Agreement | None:
  """With float32, of the codes of a few images; None if that is the type."""
  from varjax.data import preprocess
  from varjax.evals.agreement import code_agreement
  from varjax.tokenizers import make_tokenizer

  if trained.spec.compute_dtype == 'float32':
    return None
  exact = dataclasses.replace(trained.spec, compute_dtype='float32')
  encoders = [
    _encoder(tokenizer, params)
    for tokenizer in (
      trained.tokenizer, make_tokenizer(exact, data.resolution),
    )
  ]  # fmt: skip
  count = min(args.check_fp32, len(source))
  found, reference = [], []
  for first in range(0, count, args.batch_size):
    images = np.stack(
      [
        preprocess.center_crop(source[index]['image'], data)
        for index in range(first, min(first + args.batch_size, count))
      ]
    )
    found.append(np.asarray(encoders[0](images)))
    reference.append(np.asarray(encoders[1](images)))
  shares = code_agreement(
    np.concatenate(found),
    np.concatenate(reference),
    trained.tokenizer.code_spec,
  )
  *scales, share = map(float, shares)
  return encoding.Agreement(count, share, tuple(scales))


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
