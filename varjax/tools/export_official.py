"""`varjax export-official`: a trained run as official VAR checkpoints."""

from __future__ import annotations

from varjax.tools import arguments


def main(argv: list[str]) -> int:
  """Writes the files; returns the exit code."""
  parser = arguments.parser(
    'export-official',
    'Write the newest checkpoint of a run, and its tokenizer, under the '
    'names of the official code: OUT/vae.safetensors, OUT/var.safetensors, '
    'and OUT/official.npz with both. A run of stage 1 gives the tokenizer.',
  )
  arguments.add_run(parser)
  parser.add_argument('--out', required=True, help='folder to write')
  args = parser.parse_args(argv)

  from varjax.interop import workdirs
  from varjax.workdir import find_run

  states = workdirs.official_states(
    find_run(args.workdir, args.run), args.tokenizer
  )
  for file in workdirs.write_states(args.out, states):
    print(f'written {file}')
  return 0
