"""Tokenizers of the same images side by side: quality, codes, and a picture.

  python benchmarks/tokenizer_losses.py W/measured W/full \\
    --sheet docs/images/tokenizer_losses.png

Prints one JSON line for each workdir, from its record, and draws validation
images above what each tokenizer makes of them; `--scales 1,4` adds what the
first and the first four scales of the last one give. A run that goes on, or
was stopped, is shown as its newest checkpoint. docs/tokenizer_training.md
shows two.
"""

import argparse
import json
import pathlib

import numpy as np

COLUMNS = (
  'run_id', 'steps', 'val_psnr_db', 'val_ssim', 'val_perceptual', 'perceptual',
  'discriminator', 'code_usage', 'code_usage_scales', 'code_perplexity',
  'wall_s', 'device_kind', 'git_commit', 'date',
)  # fmt: skip


def row(workdir):
  """What the record of a run says, or how far it is."""
  from varjax import checkpoint, records
  from varjax.workdir import Workdir

  if not (workdir / 'records.jsonl').is_file():
    run_id, step = Workdir(workdir).run_id(), checkpoint.latest_step(workdir)
    return {'workdir': workdir.name, 'run_id': run_id, 'checkpoint': step}
  record = records.latest(records.read(workdir / 'records.jsonl'))[-1]
  return {'workdir': workdir.name} | {k: getattr(record, k) for k in COLUMNS}


def reconstructions(workdir, count, skip):
  """Validation images [n, H, W, 3] in [0, 1], and what comes back by scale."""
  import jax

  from varjax import artifacts
  from varjax.data import pipeline, sources
  from varjax.workdir import Workdir

  trained = artifacts.open_tokenizer(Workdir(workdir))
  source = sources.open_source(trained.data, 'validation')
  batches = pipeline.eval_batches(source, skip * count, data_spec=trained.data)
  # Neighbours are alike, so not the first ones.
  pixels = next(iter(batches))['image'][::skip]
  images = np.asarray(pixels, np.float32) / 127.5 - 1

  @jax.jit
  def through(params, images):
    tokenizer = trained.tokenizer
    codes = tokenizer.encode(params, images)
    return tokenizer.partial_images(params, codes)

  back = jax.device_get(through(trained.params, images))
  return (images + 1) / 2, (back + 1) / 2


def main():
  """Command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  parser.add_argument('--sheet', help='PNG file to write')
  parser.add_argument('--images', type=int, default=12, help='columns')
  parser.add_argument(
    '--scales', default='', help='also the first K alone, such as 1,4'
  )
  parser.add_argument('--skip', type=int, default=7, help='take every n-th')
  args = parser.parse_args()
  for workdir in args.workdirs:
    print(json.dumps(row(workdir)), flush=True)
  if not args.sheet:
    return
  from varjax.evals import sheets

  rows = []
  for workdir in args.workdirs:
    images, partial = reconstructions(workdir, args.images, args.skip)
    rows += [partial[-1]] if rows else [images, partial[-1]]
  for scales in filter(None, args.scales.split(',')):
    rows.append(partial[int(scales) - 1])
  sheets.image_grid(np.concatenate(rows), args.sheet, columns=args.images)


if __name__ == '__main__':
  main()
