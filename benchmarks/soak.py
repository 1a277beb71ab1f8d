"""Runs N random faults against real sweeps of tiny models; one line each.

  python benchmarks/soak.py --faults 60 --seed 0 --workdir /scratch/soak \\
    --out benchmarks/results/soak.jsonl

Rounds: a sweep of two runs starts, faults strike it one after the other at
random moments, the same command is run again where a fault has ended it, and
at the end everything it has recorded is compared with an undisturbed sweep,
to the last bit. Exits with 1 if a record is lost, doubled or different, or if
nothing was said about a fault. As root the sweeps lie on a small disk of
their own (tmpfs), which can be filled; elsewhere that fault is left out.

A soak that was stopped goes on: rounds whose faults are in --out are kept.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator
import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import re
import shutil
import subprocess
import sys
import time

from soak_faults import FAULTS
from soak_scene import Harm, Scene
from soak_world import Launcher, World, results

_PER_ROUND = 5
_DISK_MB = 48


def main() -> int:
  """Runs the soak; returns 1 when it found something."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--faults', type=int, default=60)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--workdir', required=True, help='can be made again')
  parser.add_argument('--out', required=True, help='JSON lines, appended to')
  parser.add_argument('--minutes', type=float, default=1e9, help='then stop')
  args = parser.parse_args()
  deadline = time.monotonic() + 60 * args.minutes
  world = World(pathlib.Path(args.workdir).absolute() / 'world')
  world.build()
  out = pathlib.Path(args.out)
  rows = [r for r in _read(out) if r['seed'] == args.seed]
  with _disk(world.root.parent / 'disk') as disk:
    deck = deal(args.seed, args.faults, may_fill=disk.is_mount())
    calm = _calm(world)
    number = 1 + max((row['round'] for row in rows), default=-1)
    done = len(rows)
    while done < len(deck) and time.monotonic() < deadline:
      names = deck[done : done + _PER_ROUND]
      found = run_round(world, disk / f'round-{number}', names, args.seed,
                        number, calm)  # fmt: skip
      with open(out, 'a') as file:
        file.writelines(json.dumps(row) + '\n' for row in found)
      rows += found
      done += len(found)
      number += 1
  print(table(rows))
  bad = [row for row in rows if not row['ok']]
  print(
    f'{len(rows)} of {len(deck)} faults, {len({r["round"] for r in rows})} '
    f'sweeps: {sum(r["lost"] for r in rows)} records lost, '
    f'{sum(r["doubled"] for r in rows)} doubled, '
    f'{sum(not r["identical"] for r in rows)} silent divergences, '
    f'{sum(not r["said"] for r in rows)} without a word'
  )
  return int(bool(bad))


def deal(seed: int, count: int, may_fill: bool) -> list[str]:
  """Names of faults in random order; every kind before any comes again."""
  rng = random.Random(f'deck {seed}')
  deck: list[str] = []
  while len(deck) < count:
    one = [n for n, (_, often) in FAULTS.items() for _ in range(often)]
    one = [name for name in one if may_fill or name != 'full disk']
    rng.shuffle(one)
    first = list(dict.fromkeys(one))
    for name in first:
      one.remove(name)
    deck += first + one
  return deck[:count]


def run_round(
  world: World,
  sweep_dir: pathlib.Path,
  names: list[str],
  seed: int,
  number: int,
  calm: dict,
) -> list[dict]:
  """Disturbs one sweep with as many of the faults as it has room for."""
  began = time.monotonic()
  scene = Scene(world, sweep_dir, random.Random(), Launcher(world, sweep_dir))
  struck: list[tuple[str, Harm, str]] = []
  for index, name in enumerate(names):
    scene.rng = random.Random(f'{seed} {number} {index} {name}')
    before = scene.everything_said()
    harm = FAULTS[name][0](scene)
    if harm is None:
      break
    struck.append((name, harm, before))
  for _ in range(5):
    if scene.launcher.wait() == 0:
      break
    scene.relaunch()
  said = scene.everything_said()
  try:
    found = results(sweep_dir)
  except (OSError, ValueError, KeyError, StopIteration) as error:
    said += f'\nno results: {error!r}'
    found = {'records': []}
  verdict = judge(found, calm)
  restarts = len(re.findall(r'^--- attempt', said, re.M)) - 2
  rows = [
    _row(name, harm, _since(before, said), verdict, f'{world.root.parent}/')
    | {
      'seed': seed, 'round': number, 'starts_beyond_two': restarts,
      'seconds_of_round': round(time.monotonic() - began, 1),
      'date': datetime.date.today().isoformat(),
      'device': f'{os.cpu_count()} cores of {platform.machine()} (CPU)',
    }
    for name, harm, before in struck
  ]  # fmt: skip
  if all(row['ok'] for row in rows):
    shutil.rmtree(sweep_dir)
  else:
    kept = world.root / f'bad-{seed}-{number}'
    print(f'not as it should be, kept in {kept}:\n{said}')
    shutil.copytree(sweep_dir, kept, dirs_exist_ok=True)
    shutil.rmtree(sweep_dir)
  return rows


def judge(found: dict, calm: dict) -> dict:
  """Records lost and doubled, and whether all results are the same."""
  ids = [record[0] for record in found['records']]
  wanted = [record[0] for record in calm['records']]
  return {
    'lost': len(set(wanted) - set(ids)),
    'doubled': len(ids) - len(set(ids)) + len(set(ids) - set(wanted)),
    'identical': found == calm,
  }


def table(rows: list[dict]) -> str:
  """A Markdown table of the faults."""
  lines = [
    '| # | fault | moment | what was said | records |',
    '|---|---|---|---|---|',
  ]
  for number, row in enumerate(rows, start=1):
    same = 'identical' if row['identical'] else '**differ**'
    said = row['message'].replace('|', '/')[:110] or 'nothing is to be said'
    said = said if row['said'] else '**nothing**'
    lines.append(
      f'| {number} | {row["fault"]} | {row["moment"]} | {said} | {same} |'
    )
  return '\n'.join(lines)


def _row(
  name: str, harm: Harm, said: str, verdict: dict, hide: str = ''
) -> dict:
  """One fault; `hide` is taken out of what was said: paths of this machine."""
  message = harm.said
  if not message and harm.message:
    lines = [x for x in said.splitlines() if re.search(harm.message, x)]
    message = lines[0].strip() if lines else ''
  heard = not harm.message or bool(re.search(harm.message, message))
  ok = heard and verdict['identical']
  ok = ok and not verdict['lost'] and not verdict['doubled']
  return {
    'fault': name,
    'moment': harm.moment,
    'message': message.replace(hide, '')[:300],
    'said': heard,
    **verdict,
    'ok': ok,
  }


def _since(before: str, after: str) -> str:
  """The lines of `after` that `before` has not, or has less often."""
  new = collections.Counter(after.splitlines())
  new.subtract(before.splitlines())
  return '\n'.join(line for line, count in new.items() if count > 0)


def _calm(world: World) -> dict:
  """The results of an undisturbed sweep, computed once."""
  file = world.root / 'calm.json'
  if not file.is_file():
    folder = world.root / 'calm'
    shutil.rmtree(folder, ignore_errors=True)
    launcher = Launcher(world, folder, step_s=0.0)
    assert launcher.wait() == 0, launcher.text()
    file.write_text(json.dumps(results(folder)))
  return json.loads(file.read_text())


@contextlib.contextmanager
def _disk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A small disk at `folder` where this process may mount one."""
  folder.mkdir(parents=True, exist_ok=True)
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={_DISK_MB}m', 'soak']
  mounted = subprocess.run([*mount, folder], capture_output=True).returncode
  try:
    yield folder
  finally:
    if mounted == 0:
      subprocess.run(['umount', '-l', folder], check=True)


def _read(path: pathlib.Path) -> list[dict]:
  if not path.is_file():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == '__main__':
  sys.exit(main())
