"""The console script `varjax COMMAND`; each command is a module of tools/.

Bad input ends in one sentence on stderr and the error's exit code: 2 for
input, 3 for a refused fit, 4 for a run that stopped, 5 for one that does
not fit, 75 where the machine failed and the same command may succeed later,
143 for a signal. Anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import importlib
import sys
import traceback

import varjax
from varjax import distributed, errors, storage

COMMANDS = {
  'train': 'train a tokenizer or a transformer from an experiment file',
  'pixel-tokenizer': 'write a tokenizer of pixels or palette colours',
  'encode': 'encode a dataset once into a cache of codes',
  'sample': 'sample images from a trained run',
  'sample-50k': 'sample images of every class for an evaluation by FID',
  'edit': 'in-paint, out-paint, edit by class or super-resolve an image',
  'eval': 'evaluate a run, or score images against a reference',
  'sweep': 'train every trial of a sweep file, resumably',
  'status': 'show how far a sweep is',
  'fit': 'fit scaling laws to records or to any table',
  'plan': 'turn a compute budget into a training plan',
  'design': 'propose a sweep that can be fitted, before spending',
  'aot': 'ask the compiler of a TPU or GPU what a program needs',
  'report': 'write report.html and report.md of a sweep',
  'import-official': 'official VAR checkpoints to a tokenizer and a workdir',
  'export-official': 'a trained run to official VAR checkpoints',
  'demo': 'the whole path on the built-in images, in minutes',
}

_HELP = ('-h', '--help', 'help')


def main(argv: list[str] | None = None) -> int:
  """Runs one command.

  Args:
    argv: arguments without the program name; None reads sys.argv.

  Returns:
    The exit code.
  """
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in _HELP:
    print(_usage())
    return 0 if argv else 2
  if argv[0] == '--version':
    print(varjax.__version__)
    return 0
  command = argv[0]
  if command not in COMMANDS:
    print(
      f'varjax: no command {command!r}; there are {", ".join(COMMANDS)}',
      file=sys.stderr,
    )
    return 2
  module = command.replace('-', '_')
  tool = importlib.import_module(f'varjax.tools.{module}')
  try:
    return tool.main(argv[1:])
  except errors.VarjaxError as error:
    sys.stdout.flush()
    print(f'varjax {command}: {error}', file=sys.stderr)
    if isinstance(error, errors.Stalled):
      # The thread that waits for the source would be waited for.
      distributed.exit_now(error.exit_code)
    distributed.leave(error.exit_code)
    return error.exit_code
  except KeyboardInterrupt:
    print(f'varjax {command}: interrupted', file=sys.stderr)
    return 130
  except BrokenPipeError:
    # The reader of our output has gone; that is its choice, not an error.
    sys.stderr.close()
    return 0
  except Exception as error:
    full = isinstance(error, OSError) and storage.no_room(error, 'a file')
    if full:
      print(f'varjax {command}: {full}', file=sys.stderr)
      distributed.leave(full.exit_code)
      return full.exit_code
    if distributed.is_group():
      traceback.print_exc()
      distributed.leave(1)
    raise


def _usage() -> str:
  lines = ['usage: varjax COMMAND [OPTIONS]', '']
  width = max(map(len, COMMANDS))
  lines += [f'  {name:{width}} {text}' for name, text in COMMANDS.items()]
  lines += ['', '`varjax COMMAND --help` lists the options of a command.']
  return '\n'.join(lines)
