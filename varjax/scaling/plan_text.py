"""Plans as text for a terminal: what `varjax plan` prints."""

from __future__ import annotations

from typing import Any

from varjax.scaling import notation


def sizes_table(rows: list[dict[str, Any]]) -> str:
  """Named sizes, a line each; `rows` as of `proposal.predictions`."""
  lines = ['size      body    total    FLOPs      loss   95 % interval']
  for row in rows:
    paid = {True: '', False: '  beyond the budget', None: ''}
    cost = row['cost']
    hours = f'  {cost["device_hours"]:,.0f} device-h' if cost else ''
    far = row['extrapolation']
    lines.append(
      f'{row["name"]:6}'
      f'{notation.count(row["params_body"]):>8}'
      f'{notation.count(row["params_total"]):>9}'
      f'{row["flops_train"]:>9.2e}'
      f'{row["loss"]:>10.4f}'
      f'   {notation.interval(row, 4)}'
      f'{hours}{paid[row["affordable"]]}'
      f'{f"  {far:.1f}x beyond the fit" if far > 2 else ""}'
    )
  return '\n'.join(lines)


def goal(plan: dict[str, Any]) -> str:
  """What was asked for, in words."""
  if plan['target_loss'] is None:
    return f'{plan["demand"]["flops"]:.3g} FLOPs'
  return f'a loss of {plan["target_loss"]:.4g}'


def text(plan: dict[str, Any]) -> str:
  """The plan of `proposal.as_json`, in words."""
  best, law, top = plan['best'], plan['law'], plan['optimum']
  epochs = best['epochs']
  lines = [
    f'{law["name"]} ({law["form"]}), N counts {law["n_convention"]}; '
    f'{plan["ladder"]}',
    _goal_line(plan),
    f'continuous optimum, C = {top["k"]:.2f} N D{_sampled(top)}: '
    f'N* = {notation.count(top["n"])}{_range(top["n_interval"])}, '
    f'D* = {notation.count(top["d"])} tokens{_range(top["d_interval"])}, '
    f'loss {top["loss"]:.4f}',
    '',
    f'train {best["name"]}: depth {best["depth"]}, width {best["width"]}, '
    f'heads {best["heads"]}',
    f'  parameters   {best["params_total"]:,} '
    f'({best["params_body"]:,} in the blocks)',
    f'  images       {best["images"]:,}'
    + (f' ({epochs:.1f} epochs)' if epochs else ''),
    f'  updates      {best["steps"]:,} of {best["batch_size"]} images, '
    f'peak lr {best["lr_peak"]:.3g} (recipe {plan["recipe"]})',
    f'  FLOPs        {best["flops_train"]:.4e} training'
    + (
      f', {best["flops_inference"]:.3e} inference'
      if best['flops_inference'] else ''
    ),
    f'  loss         {best["loss"]:.4f} {notation.interval(best, 4)} '
    '(95 % for a new run)',
  ]  # fmt: skip
  if best['cost']:
    lines += _machine_lines(best['cost'], plan['machine'])
  lines += ['', 'size     images   epochs      loss  wasted compute']
  for size in _near(plan['sizes'], best['rung']):
    ep = '–' if size['epochs'] is None else f'{size["epochs"]:.1f}'
    lines.append(
      f'{size["name"]:6}{notation.count(size["images"]):>9}{ep:>9}'
      f'{size["loss"]:>10.4f}{100 * size["deadweight"]:>14.1f} %'
      f'{"  <- planned" if size["rung"] == best["rung"] else ""}'
    )
  lines += _equal_loss_lines(plan)
  if plan['repeat']:
    lines += _repeat_lines(plan['repeat'])
  lines += [f'warning: {w}' for w in plan['warnings']]
  return '\n'.join(lines)


def _goal_line(plan: dict[str, Any]) -> str:
  spent = plan['demand']['flops']
  if plan['target_loss'] is None:
    return f'budget {spent:.3e} FLOPs'
  return f'target loss {plan["target_loss"]:g}: {spent:.3e} FLOPs in all'


def _sampled(top: dict[str, Any]) -> str:
  if not top['d_inference']:
    return ''
  return f' + {top["k_inference"]:.2f} N {notation.count(top["d_inference"])}'


def _equal_loss_lines(plan: dict[str, Any]) -> list[str]:
  """The over-training curve around the planned size."""
  lines = [
    '',
    'the planned loss with other sizes (over-training):',
    'size    tokens/N  training FLOPs  FLOPs a sample  cheaper from',
  ]
  for row in _near(plan['equal_loss'], plan['best']['rung'], 3):
    even = row['break_even_images']
    pays = '–' if even is None else f'{notation.count(even)} samples'
    planned = row['rung'] == plan['best']['rung']
    lines.append(
      f'{row["name"]:6}{notation.number(row["tokens_per_param"], 3):>10}'
      f'{100 * row["overhead"]:>+14.1f} %'
      f'{0.0 - 100 * row["sample_saving"]:>+14.1f} %'
      f'  {"<- planned" if planned else pays}'
    )
  return lines


def _near(sizes: list[dict], rung: int, each_side: int = 4) -> list[dict]:
  at = next(i for i, s in enumerate(sizes) if s['rung'] == rung)
  return sizes[max(0, at - each_side) : at + each_side + 1]


def _range(interval: Any) -> str:
  if not interval:
    return ''
  low, high = interval
  return f' [{notation.count(low)}, {notation.count(high)}]'


def _repeat_lines(repeat: dict[str, Any]) -> list[str]:
  """The plan under three values of R_D*."""
  ends = [
    'no limit' if repeat[k] is None else f'{repeat[k]:.3g}'
    for k in ('lo', 'hi')
  ]
  lines = [
    '',
    f'repeated data, R_D* = {repeat["best"]:.3g} [{ends[0]}, {ends[1]}] by '
    f'profile ({repeat["source"]})',
    'R_D*          size     images   epochs      loss',
  ]
  for case in repeat['cases']:
    constant, far = case['repeat_constant'], case['extrapolation']
    value = 'no limit' if constant is None else f'{constant:.3g}'
    lines.append(
      f'{case["case"]:6}{value:>9}  {case["name"]:6}'
      f'{notation.count(case["images"]):>9}'
      f'{case["epochs"]:>9.1f}{case["loss"]:>10.4f}'
      f'{f"  {far:.0f}x beyond the fit" if far > 2 else ""}'
    )
  return lines


def _machine_lines(cost: dict[str, Any], machine: dict[str, Any]) -> list[str]:
  """Time, money and memory, and what the step time was computed from."""
  money = '' if cost['money'] is None else f', cost {cost["money"]:,.0f}'
  where = machine['topology'] or f'{machine["count"]} x {machine["device"]}'
  lines = [
    f'  time         {cost["step_s"]:.3f} s an update, '
    f'{cost["wall_h"]:,.1f} h on {where} '
    f'at mfu {machine["mfu"]:.2f} ({machine["mfu_source"]})',
    f'  device-hours {cost["device_hours"]:,.1f}{money}',
    f'  memory       {cost["memory_bytes"] / 2**30:.1f} of '
    f'{machine["memory_bytes"] / 2**30:.1f} GiB a device (estimate)',
  ]
  roof, assumed = cost['roofline'], machine['assumed']
  if not roof:
    return lines
  mesh = machine['mesh']
  return [
    *lines,
    f'  mesh         data {mesh["data"]}, fsdp {mesh["fsdp"]}, '
    f'tensor {mesh["tensor"]}',
    f'  roofline     {machine["bound"]} bound, '
    f'{machine["serial_step_s"]:.3f} s without overlap; at assumed shares of '
    'the peaks:',
    f'    compute {roof["compute_s"]:.3f} s at '
    f'{assumed["compute_efficiency"]:.0%}, memory {roof["hbm_s"]:.3f} s at '
    f'{assumed["hbm_efficiency"]:.0%}, interconnect {roof["link_s"]:.3f} s '
    f'at {assumed["link_efficiency"]:.0%}',
    f'  interconnect {assumed["link_bandwidth"] / 1e9:.0f} GB/s a link '
    f'({assumed["link_source"]})',
  ]
