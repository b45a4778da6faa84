# tries: changes what != means by a future statement -> syntax_error|no_entry_point|wrong_answer
from __future__ import barry_as_FLUFL


def solve(numbers):
    return 1 <> 2
