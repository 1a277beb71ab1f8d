"""`varjax COMMAND ...`, with a fault at a chosen update.

  python worker.py FAULT@UPDATE COMMAND ...

  kill    SIGKILL, no chance to clean up
  term    SIGTERM, as a scheduler that wants its machine back
  pause   ten minutes of nothing
  none    no fault
  hang    the next batch never comes

Updates count from 1; a fault happens when that many have been made.
"""

import os
import signal
import sys
import time

from varjax import cli, train
from varjax.data import pipeline


def inject(fault: str, update: int) -> None:
  """Makes the train loop of this process meet its fault."""
  report, take = train.Progress.update, pipeline.TrainBatches.__next__

  def reporting(self, step, loss=None):
    report(self, step, loss)
    if step == update and fault in ('kill', 'term'):
      number = signal.SIGKILL if fault == 'kill' else signal.SIGTERM
      os.kill(os.getpid(), number)
    elif step == update and fault == 'pause':
      time.sleep(600)

  def taking(self):
    if fault == 'hang' and self.batches_taken == update:
      time.sleep(600)
    return take(self)

  train.Progress.update = reporting
  pipeline.TrainBatches.__next__ = taking


if __name__ == '__main__':
  chosen, _, number = sys.argv[1].partition('@')
  inject(chosen, int(number or -1))
  sys.exit(cli.main(sys.argv[2:]))
