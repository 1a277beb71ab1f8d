"""Which split an emoji belongs to: by what it is, never by the picture."""

from __future__ import annotations

import hashlib

VALIDATION_PERCENT = 10
# A variation selector and the five skin tones: the same emoji with another
# presentation, whose pictures are near-duplicates.
_LOOKS = frozenset(('FE0F', '1F3FB', '1F3FC', '1F3FD', '1F3FE', '1F3FF'))


def split_of(emoji: str) -> str:
  """The split of a code point sequence such as '1F600' or '2764-FE0F'.

  Returns:
    'train' or 'validation', by a hash of the code points without the
    variation selector and skin tones.
  """
  base = '-'.join(part for part in emoji.split('-') if part not in _LOOKS)
  digest = hashlib.sha256(base.encode()).digest()
  percent = int.from_bytes(digest[:8], 'little') % 100
  return 'validation' if percent < VALIDATION_PERCENT else 'train'
