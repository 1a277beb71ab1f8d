"""Huge pages for the memory of CPU training processes.

XLA takes its scratch memory anew for every update and gives it back, and
each time the kernel maps it page by page. With glibc's huge-page tunable
(glibc 2.35 and later; others ignore it) an update of the demo's largest
model takes 550 page faults instead of 31,000; see benchmarks/allocator.py
and docs/log.md.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = 'GLIBC_TUNABLES'
TUNABLE = 'glibc.malloc.hugetlb=1'


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
  """A copy for a child process; a setting of the user's is left alone."""
  return {VARIABLE: TUNABLE, **environment}
