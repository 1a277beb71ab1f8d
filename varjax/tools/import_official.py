"""`varjax import-official`: official VAR checkpoints as varjax folders."""

from __future__ import annotations

import argparse
from typing import Any

from varjax import errors
from varjax import spec as specs
from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Reads, checks and writes; returns the exit code."""
  args = _parser().parse_args(argv)
  patch_nums = _grids(args.patch_nums) if args.patch_nums else None
  given: dict[str, Any] = {
    key: getattr(args, key)
    for key in ('num_heads', 'norm_groups', 'quant_resi', 'using_znorm')
    if getattr(args, key) is not None
  }

  from varjax.interop import infer, pth, workdirs

  vae = pth.read_state(args.vae, 'vae')
  var = pth.read_state(args.var, 'var')
  run, run_id = workdirs.write_run(
    args.out,
    infer.infer_config(vae, var, patch_nums, **given),
    vae,
    var,
    specs.DataSpec(name=args.dataset, data_dir=args.data_dir),
    name=args.name,
    compute_dtype=args.compute_dtype,
  )
  model, tokenizer = run.model, run.tokenizer
  print(
    f'run {run_id}: depth {model.depth}, width {model.width}, heads '
    f'{model.heads}, {model.num_classes} classes, '
    f'{"shared" if model.shared_adaln else "own"} AdaLN, '
    f'{"l2-norm" if model.l2_norm else "plain"} attention; '
    f'{tokenizer.vocab} codes of {tokenizer.code_dim}, phi_count '
    f'{tokenizer.phi_count}, scales {",".join(map(str, tokenizer.scales))}, '
    f'{run.data.resolution} pixels'
  )
  print(f'written to {args.out}/{workdirs.TOKENIZER} and /{workdirs.MODEL}')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser(
    'import-official',
    'Convert official VAR checkpoints. OUT/tokenizer and OUT/model are then '
    'what `varjax train` leaves: sample, evaluate, encode or fine-tune from '
    'them. Reading a .pth executes nothing in it.',
    'The network is inferred from the tensors. What they cannot say has the '
    'value of the released models unless it is given.',
  )
  parser.add_argument(
    '--vae', required=True, help='tokenizer: .pth, .safetensors or .npz'
  )
  parser.add_argument(
    '--var', required=True, help='transformer: .pth, .safetensors or .npz'
  )
  parser.add_argument('--out', required=True, help='folder to write')
  parser.add_argument(
    '--patch_nums', help='scales, such as 1,2,3,4 or 1x1,2x3; if not known'
  )
  _add_given(parser)
  parser.add_argument(
    '--compute_dtype',
    default='float32',
    choices=('float32', 'bfloat16'),
    help='of the transformer; weights stay float32',
  )
  parser.add_argument(
    '--dataset',
    default='imagenet2012',
    help='what it is evaluated on: a tfds name, "folder" or "emoji"',
  )
  parser.add_argument('--data_dir', default='', help='of the dataset')
  parser.add_argument('--name', default='official', help='a label for people')
  return parser


def _add_given(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--num_heads',
    type=int,
    help='of a model without l2-norm, which alone does not store it',
  )
  parser.add_argument(
    '--norm_groups', type=int, help='groups of a GroupNorm; 32 if unset'
  )
  parser.add_argument(
    '--quant_resi',
    type=float,
    help='weight of the residual convolutions (phi); 0.5 if unset',
  )
  parser.add_argument(
    '--using_znorm',
    action='store_true',
    default=None,
    help='codes were chosen by cosine',
  )


def _grids(text: str) -> tuple[int | tuple[int, int], ...]:
  """'1,2x3' to (1, (2, 3))."""
  grids: list[int | tuple[int, int]] = []
  for part in text.split(','):
    sides = part.strip().split('x')
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
      raise errors.ConfigError(
        f'--patch_nums={text}: must be sides such as 1,2,3 or 1x1,2x3'
      )
    height, width = int(sides[0]), int(sides[-1])
    grids.append(height if len(sides) == 1 else (height, width))
  return tuple(grids)
