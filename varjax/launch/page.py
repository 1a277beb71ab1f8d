"""A sweep's status as one small HTML page that reloads itself.

Whole in itself: no scripts, no pictures, nothing from elsewhere. What trials
say (names, errors, logs) is text of strangers, and is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
import datetime

import jinja2

from varjax.launch import table

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'">
{%- if refresh_s %}
<meta http-equiv="refresh" content="{{ refresh_s }}">
{%- endif %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ percent }}% · {{ sweep }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --faint: #8882; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
p { margin: .25rem 0; opacity: .8; }
.wide { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.text { white-space: normal; min-width: 16rem; max-width: 36rem;
  overflow-wrap: anywhere; }
.bar { width: 9rem; height: .55rem; border-radius: .3rem; overflow: hidden;
  background: var(--faint); display: inline-block; margin-right: .5rem; }
.bar i { display: block; height: 100%; background: #3b82f6; }
.all { width: 100%; max-width: 40rem; height: .7rem; margin: .5rem 0; }
.complete i, .all i { background: #16a34a; }
.failed i { background: #dc2626; }
.pill { border-radius: .6rem; padding: .05rem .55rem; color: #fff;
  background: #6b7280; font-size: .85em; }
.pill.complete { background: #15803d; }
.pill.failed { background: #b91c1c; }
.pill.running { background: #1d4ed8; }
.note { color: #b45309; }
</style>
</head>
<body>
<h1>{{ sweep }}</h1>
<p>{{ summary }}
{%- if eta %} · {{ eta }} left for the running ones{% endif %}</p>
<div class="bar all"><i style="width: {{ percent }}%"></i></div>
<p>launcher {{ 'at work' if running else 'not at work' }} ·
 written {{ now }}
{%- if refresh_s %} · reloads every {{ refresh_s }} s{% endif %}</p>
<div class="wide">
<table>
<tr><th>#</th><th>name</th><th>role</th><th>status</th><th>progress</th>
<th>body params</th><th>loss</th><th>err</th><th>images/s</th><th>left</th>
<th>where</th><th>run id</th><th>note</th></tr>
{%- for row in rows %}
<tr class="{{ row.status }}">
<td class="number">{{ row.index }}</td>
<td>{{ row.name }}</td>
<td>{{ row.role }}</td>
<td><span class="pill {{ row.status }}">{{ row.status }}</span></td>
<td><span class="bar"><i style="width: {{ share(row) }}%"></i></span>
{{- steps(row) }}</td>
<td class="number">{{ number(row.params_body, ',') }}</td>
<td class="number">{{ number(row.loss, '.4f') }}</td>
<td class="number">{{ number(row.err, '.4f') }}</td>
<td class="number">{{ number(row.images_per_s, '.1f') }}</td>
<td class="number">{{ '' if row.eta_s is none else duration(row.eta_s) }}</td>
<td>{{ row.where or '' }}</td>
<td>{{ row.run_id }}</td>
<td class="text">
{%- if (row.attempt or 1) > 1 %}attempt {{ row.attempt }}. {% endif %}
{%- if row.note %}<span class="note">straggler: {{ row.note }}</span>
{% endif %}
{{- row.error or '' }}</td>
</tr>
{%- endfor %}
</table>
</div>
</body>
</html>
"""


def html(
  sweep: str,
  rows: Sequence[table.Row],
  *,
  running: bool,
  refresh_s: float = 0.0,
  now: datetime.datetime | None = None,
) -> str:
  """The page.

  Args:
    sweep: its name.
    rows: of its trials.
    running: whether a launcher is at work.
    refresh_s: seconds between reloads; 0 does not reload.
    now: shown as the time of writing.
  """
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined
  )
  left = [row.eta_s for row in rows if row.eta_s is not None]
  shown = now or datetime.datetime.now(datetime.UTC)
  shares = [_share(row) for row in rows]
  return environment.from_string(_TEMPLATE).render(
    sweep=sweep,
    rows=rows,
    running=running,
    refresh_s=max(1, round(refresh_s)) if refresh_s else 0,
    summary=table.summary(rows),
    percent=round(sum(shares) / len(shares)) if shares else 0,
    eta=table.duration(max(left)) if left else '',
    now=shown.strftime('%Y-%m-%d %H:%M:%S %Z'),
    share=_share,
    steps=_steps,
    number=lambda value, how: '' if value is None else format(value, how),
    duration=table.duration,
  )


def _steps(row: table.Row) -> str:
  return '' if row.steps is None else f'{row.steps}/{row.total_steps or "?"}'


def _share(row: table.Row) -> int:
  """Percent of a trial's updates that are made."""
  if row.status == 'complete':
    return 100
  if not row.steps or not row.total_steps:
    return 0
  return min(99, int(100 * row.steps / row.total_steps))
