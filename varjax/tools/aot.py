"""`varjax aot`: does a program fit these devices? Asks their real compiler.

  varjax aot --config experiments/var_imagenet256.py:size=d16 \\
    --topology v5e:4x4
  varjax aot --config experiments/var_imagenet256.py:size=d30 \\
    --topology v5e:16x16 --mesh 4,64,1 --json d30.json
  varjax aot --config experiments/var_imagenet256.py:size=d30 \\
    --topology v5e:4x4 --search
  varjax aot --config experiments/var_imagenet256.py:size=d30 \\
    --topology h100:1 --config.batch_size=32 --parts
  varjax aot --config experiments/var_imagenet256.py:size=d16 \\
    --topology h100:1 --program sample --batch 64 --compute bfloat16
  varjax aot --config experiments/msvq_imagenet.py --topology h100:1 \\
    --program encode --batch 64 --config.tokenizer.compute_dtype=bfloat16

The program is an update of either stage (train), or what one device runs of
`varjax sample` (labels to images), `varjax encode` (images to codes) or of
the decoder (codes to images).
No TPU or GPU, no data and no trained tokenizer are needed, only the extra
`tpu` (a compile takes minutes) or `cuda` (seconds). Results are kept by
content. Exit code 5: it does not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys

from varjax import errors, memory, topology
from varjax.aot import cache, parts, search, target
from varjax.aot import report as reports
from varjax.aot.compiled import Compiled
from varjax.aot.request import DEFAULT_IMAGES, PROGRAMS, Request
from varjax.params import scale_sequence
from varjax.spec import MeshSpec, RunSpec
from varjax.tools import arguments
from varjax.topology import Topology


def main(argv: list[str]) -> int:
  """Prints what the compiler says; returns the exit code.

  Args:
    argv: arguments behind `varjax aot`.

  Raises:
    DoesNotFit: one device would need more memory than it has.
    ConfigError: bad arguments, or no compiler installed.
  """
  argv, overrides = arguments.split_overrides(argv)
  args = _parser().parse_args(argv)
  slice_ = topology.parse(args.topology)
  if args.mesh:
    overrides |= mesh_overrides(args.mesh)
  request = _request(args, arguments.load_run(args.config, overrides))
  run = request.run
  if run.task == 'generate' and request.program in ('train', 'sample'):
    scale_sequence(run)  # The roofline knows no other order yet.
  if args.search:
    return _search(args, run, slice_)
  if run.task == 'generate' and request.is_training:
    run = memory.choose_remat(
      run,
      slice_.count,
      target.usable_bytes(slice_),
      platform=slice_.device.platform,
    )
    request = dataclasses.replace(request, run=run)
  result = ask(request, slice_)
  report = reports.describe(request, slice_, result)
  print(reports.to_text(report))
  if args.parts and result.fits:
    print(f'\n{parts.table(parts.summed(result.parts))}')
    print(f'\n{parts.table(result.parts)}')
  if args.json:
    _write(args.json, reports.to_json(report))
  if not result.fits:
    raise errors.DoesNotFit(refusal(request, slice_, report))
  return 0


def ask(request: Request, slice_: Topology) -> Compiled:
  """The compiler's answer, from the cache without JAX where it is known."""
  known = cache.find(request, slice_)
  if known is not None:
    return known
  target.prepare(slice_)
  print(
    f'compiling {request.program} of {request.run.name or request.run.task} '
    f'for {slice_} with '
    f'{target.name(slice_)}: this takes '
    f'{target.compiler_of(slice_).DURATION}, once',
    file=sys.stderr,
    flush=True,
  )
  # JAX starts only now, in the environment that `prepare` made.
  from varjax.aot import compiler

  return compiler.compiled(request, slice_)


def refusal(request: Request, slice_: Topology, report: reports.Report) -> str:
  """One sentence: the sizes, and what should fit instead."""
  run, used = request.run, reports.needed(report.compiled)
  if not request.is_training:
    return (
      f'{request.program} of {report.name} with {request.batch} images does '
      f'not fit a device of {slice_}: it needs {used} of '
      f'{reports.gib(report.limit_bytes)} (the compiler: '
      f'{report.compiled.refusal.rstrip(".")}); lower --batch'
    )
  data, fsdp, tensor = report.mesh
  text = (
    f'{report.name} does not fit {slice_} with mesh {data},{fsdp},{tensor}, '
    f'batch {report.batch_size} in {report.accumulate} and remat '
    f'{report.remat}: a device needs {used} of '
    f'{reports.gib(report.limit_bytes)} (the compiler: '
    f'{report.compiled.refusal.rstrip(".")})'
  )
  if run.task == 'reconstruct':
    return f'{text}; lower batch_size or raise optim.accumulate'
  found = search.suggestions(run, slice_)
  if not found:
    return f'{text}; no slice of {slice_.device.name} that is listed fits it'
  lines = [f'{c.flags} ({reports.gib(c.estimate_bytes)})' for c in found]
  return (
    f'{text}; by the analytic estimate, not compiled, these fit:\n  '
    + '\n  '.join(lines)
  )


def mesh_overrides(text: str) -> dict[str, str]:
  """`data,fsdp,tensor` as overrides of a config.

  Raises:
    ConfigError: not three integers.
  """
  sizes = text.split(',')
  if len(sizes) != 3 or not all(s.lstrip('-').isdigit() for s in sizes):
    raise errors.ConfigError(
      f'--mesh={text!r}: must be data,fsdp,tensor, such as 1,-1,1'
    )
  names = [field.name for field in dataclasses.fields(MeshSpec)]
  return {f'mesh.{n}': s for n, s in zip(names, sizes, strict=True)}


def _request(args: argparse.Namespace, run: RunSpec) -> Request:
  """What is asked for, with the sampler's settings in the run.

  Raises:
    ConfigError: flags that the program does not have.
  """
  sampling = {
    name: value
    for name, value in arguments.sampling_of(args).items()
    if value is not None
  }
  if args.program != 'sample' and sampling:
    raise errors.ConfigError(
      f'--{next(iter(sampling))}: is a setting of --program sample'
    )
  if args.program != 'train' and (args.search or args.mesh):
    name = 'search' if args.search else 'mesh'
    raise errors.ConfigError(
      f'--{name}: is of an update; {args.program} runs on each device alone'
    )
  run = dataclasses.replace(
    run, sample=dataclasses.replace(run.sample, **sampling)
  )
  if args.batch is not None and args.batch < 1:
    raise errors.ConfigError(f'--batch={args.batch}: must be at least 1')
  request = Request(
    run, args.program, args.batch or 0, arguments.precision_of(args)
  )
  request.check()
  return request


def _search(args: argparse.Namespace, run: RunSpec, slice_: Topology) -> int:
  """Compiles the most promising ways; prints a table of those that fit."""

  def say(line: str) -> None:
    print(line, flush=True)

  found = search.search(run, slice_, ask, args.tries, say)
  if args.json:
    _write(args.json, [reports.to_json(report) for report in found])
  if not found:
    raise errors.DoesNotFit(
      f'{run.name} does not fit {slice_} in any of the {args.tries} ways '
      'compiled; raise --tries, take a larger slice or a smaller batch'
    )
  print(search.table(found))
  return 0


def _write(path: str, values: object) -> None:
  file = pathlib.Path(path)
  if not file.parent.is_dir():
    raise errors.ConfigError(f'--json={path}: the folder does not exist')
  file.write_text(json.dumps(values, indent=1, allow_nan=False) + '\n')


def _parser() -> argparse.ArgumentParser:
  parser = arguments.parser('aot', __doc__ or '', arguments.OVERRIDE_HELP)
  add = parser.add_argument
  add('--config', required=True, help=arguments.CONFIG_HELP)
  add(
    '--topology',
    required=True,
    help='devices to compile for, as v5e:4x4, v6e:4x4, v4:2x2x4, v5p:4x4x4, '
    'h100:1, h100:8, h200:8, a100-80gb:8 or a100:8',
  )
  add('--mesh', help='data,fsdp,tensor; one may be -1 (as --mesh=-1,1,1)')
  add(
    '--program',
    choices=PROGRAMS,
    default='train',
    help='what to compile: train (the update of either stage), sample (labels '
    'to images, decoder included), encode or decode',
  )
  add(
    '--batch',
    type=int,
    help='images of a call of sample, encode or decode; if unset, '
    f'{", ".join(map(str, DEFAULT_IMAGES.values()))}',
  )
  add(
    '--search',
    action='store_true',
    help='try meshes, remat policies and parts of the batch, the most '
    'promising first, and rank those that fit',
  )
  add('--tries', type=int, default=4, help='programs that --search compiles')
  add(
    '--parts',
    action='store_true',
    help='list which parts of the model move how many bytes in how many '
    'kernels, first in sums: a profile without the device',
  )
  add('--json', help='file for the report, or the list of reports')
  sampler = parser.add_argument_group(
    'of --program sample', '--compute is of decode as well'
  )
  arguments.add_sampling(sampler)
  arguments.add_precision(sampler)
  return parser


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
